package verifier

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"sync"
	"time"

	"keylime/ima"
	"keylime/internal/policy"
	"keylime/store"
)

// policies holds compiled policies and agents' keyrings, each text once however many agents name it. An agent's round
// asks by name and gets what the name stands for at that moment: an update takes effect with the next round, and a round
// under way keeps the version that it began with. Safe for concurrent use.
type policies struct {
	store policyStore

	mu       sync.Mutex
	texts    map[string]*compiledText[*policy.Runtime] // by digest
	boots    map[string]*compiledText[*policy.Boot]    // by digest
	keyrings map[string]*keyring                       // agents' own, by text
	pruned   time.Time

	bootEngine string
	extensions []policy.Extension // what runtime policies may have
}

type policyStore interface {
	Policy(ctx context.Context, kind store.PolicyKind, name string) (store.Policy, error)
	PolicyHead(ctx context.Context, kind store.PolicyKind, name string) (store.Policy, error)
}

// compiledText is one text's compiled form.
type compiledText[P any] struct {
	compile sync.Mutex // held while compiling, so that others wait for the result rather than repeat the work
	policy  P
	done    bool
	used    time.Time // guarded by policies.mu
}

// keyring is one text's keys.
type keyring struct {
	keys *ima.Keyring
	used time.Time
}

func newPolicies(s policyStore, bootEngine string, extensions ...policy.Extension) *policies {
	return &policies{
		store: s, bootEngine: bootEngine, extensions: extensions,
		texts: map[string]*compiledText[*policy.Runtime]{}, boots: map[string]*compiledText[*policy.Boot]{},
		keyrings: map[string]*keyring{},
	}
}

// runtime returns the named runtime policy, compiled: while it is being replaced in stages, the new text beside the old.
func (c *policies) runtime(ctx context.Context, name string, now time.Time) (*policy.Runtime, error) {
	head, err := c.store.PolicyHead(ctx, store.RuntimePolicy, name)
	if err != nil {
		return nil, fmt.Errorf("runtime policy %s: %w", name, err)
	}
	current, err := c.compiled(ctx, name, head.Digest, now, func(p store.Policy) []byte { return p.Text })
	if err != nil || !staged(head, now) {
		return current, err
	}
	old, err := c.compiled(ctx, name, head.Previous.Digest, now, func(p store.Policy) []byte {
		if p.Previous == nil { // it was updated in between
			return p.Text
		}
		return p.Previous.Text
	})
	if err != nil {
		return nil, err
	}
	return current.Beside(old)
}

// staged reports whether the text that a policy replaces still counts.
func staged(head store.Policy, now time.Time) bool {
	return head.Previous != nil && now.Before(head.Previous.Until)
}

// compiled returns the text of that digest, compiled. text takes it out of the named policy.
func (c *policies) compiled(ctx context.Context, name, digest string, now time.Time, text func(store.Policy) []byte) (*policy.Runtime, error) {
	entry := textOf(c, c.texts, digest, now)
	entry.compile.Lock()
	defer entry.compile.Unlock()
	if entry.done {
		return entry.policy, nil
	}
	p, err := c.store.Policy(ctx, store.RuntimePolicy, name)
	if err != nil {
		return nil, fmt.Errorf("runtime policy %s: %w", name, err)
	}
	compiled, err := policy.CompileRuntime(text(p), c.extensions...)
	if err != nil {
		return nil, fmt.Errorf("runtime policy %s: %w", name, err)
	}
	if compiled.Digest() == digest { // else it was updated in between
		entry.policy, entry.done = compiled, true
	}
	return compiled, nil
}

// prune drops, now and then, what nobody asked for of late. c.mu is held.
func (c *policies) prune(now time.Time) {
	if now.Sub(c.pruned) <= policyIdle {
		return
	}
	c.pruned = now
	maps.DeleteFunc(c.texts, func(_ string, t *compiledText[*policy.Runtime]) bool { return now.Sub(t.used) > policyIdle })
	maps.DeleteFunc(c.boots, func(_ string, t *compiledText[*policy.Boot]) bool { return now.Sub(t.used) > policyIdle })
	maps.DeleteFunc(c.keyrings, func(_ string, k *keyring) bool { return now.Sub(k.used) > policyIdle })
}

// keyring returns the keys of an agent's own keyring; nil for an agent that has none.
func (c *policies) keyring(text string, now time.Time) (*ima.Keyring, error) {
	if text == "" {
		return nil, nil
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.prune(now)
	k := c.keyrings[text]
	if k == nil {
		keys, _, err := ima.ParseKeyring(text)
		if err != nil {
			return nil, fmt.Errorf("enrolled ima_sign_verification_keys: %w", err)
		}
		k = &keyring{keys: keys}
		c.keyrings[text] = k
	}
	k.used = now
	return k.keys, nil
}

// textOf finds or makes the place of a text.
func textOf[P any](c *policies, texts map[string]*compiledText[P], digest string, now time.Time) *compiledText[P] {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.prune(now)
	t := texts[digest]
	if t == nil {
		t = &compiledText[P]{}
		texts[digest] = t
	}
	t.used = now
	return t
}

// errBootPolicy is returned for a stored measured-boot policy that is none for the configured engine.
var errBootPolicy = errors.New("the measured boot policy does not compile; update it, or measured_boot_policy_name")

// boot returns the named measured-boot policy, compiled; nil when there is none or it asks for nothing.
func (c *policies) boot(ctx context.Context, name string, now time.Time) (*policy.Boot, error) {
	if name == "" {
		return nil, nil
	}
	head, err := c.store.PolicyHead(ctx, store.MeasuredBootPolicy, name)
	if err != nil {
		return nil, fmt.Errorf("measured boot policy %s: %w", name, err)
	}
	entry := textOf(c, c.boots, head.Digest, now)
	entry.compile.Lock()
	defer entry.compile.Unlock()
	if entry.done {
		return entry.policy, nil
	}
	p, err := c.store.Policy(ctx, store.MeasuredBootPolicy, name)
	if err != nil {
		return nil, fmt.Errorf("measured boot policy %s: %w", name, err)
	}
	compiled, err := policy.CompileBoot(c.bootEngine, p.Text)
	if err != nil {
		return nil, fmt.Errorf("measured boot policy %s: %w: %w", name, errBootPolicy, err)
	}
	if p.Digest == head.Digest { // else it was updated in between
		entry.policy, entry.done = compiled, true
	}
	return compiled, nil
}

package verifier

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"strings"
	"sync"
	"time"

	"keylime/ima"
	"keylime/internal/policy"
	"keylime/store"
)

// policies holds compiled runtime policies and agents' keyrings, each text once however many agents name it. An agent's round asks by
// name and gets what the name stands for at that moment: an update takes effect with the next round, and a round
// under way keeps the version that it began with. Safe for concurrent use.
type policies struct {
	store policyStore

	mu       sync.Mutex
	texts    map[string]*runtimeText // by digest
	keyrings map[string]*keyring     // agents' own, by text
	pruned   time.Time
}

type policyStore interface {
	Policy(ctx context.Context, kind store.PolicyKind, name string) (store.Policy, error)
	PolicyHead(ctx context.Context, kind store.PolicyKind, name string) (store.Policy, error)
}

// runtimeText is one text's compiled form.
type runtimeText struct {
	compile sync.Mutex // held while compiling, so that others wait for the result rather than repeat the work
	policy  *policy.Runtime
	used    time.Time // guarded by policies.mu
}

// keyring is one text's keys.
type keyring struct {
	keys *ima.Keyring
	used time.Time
}

func newPolicies(s policyStore) *policies {
	return &policies{store: s, texts: map[string]*runtimeText{}, keyrings: map[string]*keyring{}}
}

// runtime returns the named runtime policy, compiled.
func (c *policies) runtime(ctx context.Context, name string, now time.Time) (*policy.Runtime, error) {
	head, err := c.store.PolicyHead(ctx, store.RuntimePolicy, name)
	if err != nil {
		return nil, fmt.Errorf("runtime policy %s: %w", name, err)
	}
	text := c.entry(head.Digest, now)
	text.compile.Lock()
	defer text.compile.Unlock()
	if text.policy != nil {
		return text.policy, nil
	}
	p, err := c.store.Policy(ctx, store.RuntimePolicy, name)
	if err != nil {
		return nil, fmt.Errorf("runtime policy %s: %w", name, err)
	}
	compiled, err := policy.CompileRuntime(p.Text)
	if err != nil {
		return nil, fmt.Errorf("runtime policy %s: %w", name, err)
	}
	if compiled.Digest() == head.Digest { // else it was updated in between
		text.policy = compiled
	}
	return compiled, nil
}

// prune drops, now and then, what nobody asked for of late. c.mu is held.
func (c *policies) prune(now time.Time) {
	if now.Sub(c.pruned) <= policyIdle {
		return
	}
	c.pruned = now
	maps.DeleteFunc(c.texts, func(_ string, t *runtimeText) bool { return now.Sub(t.used) > policyIdle })
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

// entry finds or makes the place of a text.
func (c *policies) entry(digest string, now time.Time) *runtimeText {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.prune(now)
	t := c.texts[digest]
	if t == nil {
		t = &runtimeText{}
		c.texts[digest] = t
	}
	t.used = now
	return t
}

// errMeasuredBoot is returned for a measured-boot policy with content: this release does not evaluate them, and an
// agent that has one must not pass as if it did.
var errMeasuredBoot = errors.New("measured boot policies are not evaluated by this release; remove mb_policy and mb_policy_name, or name a policy whose text is {}")

// noMeasuredBoot checks that the named measured-boot policy asks for nothing.
func (c *policies) noMeasuredBoot(ctx context.Context, name string) error {
	if name == "" {
		return nil
	}
	p, err := c.store.Policy(ctx, store.MeasuredBootPolicy, name)
	if err != nil {
		return fmt.Errorf("measured boot policy %s: %w", name, err)
	}
	if !blankMBPolicy(string(p.Text)) {
		return fmt.Errorf("measured boot policy %s: %w", name, errMeasuredBoot)
	}
	return nil
}

// blankMBPolicy reports whether a measured-boot policy's text asks for nothing.
func blankMBPolicy(text string) bool {
	switch strings.Join(strings.Fields(text), "") {
	case "", "{}", "null":
		return true
	}
	return false
}

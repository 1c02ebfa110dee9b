package verifier

import (
	"context"
	"encoding/json"
	"fmt"
	"sync"
	"time"

	"keylime/internal/api"
	"keylime/internal/notify"
	"keylime/store"
)

// agentChannel posts to every agent of this verifier, the failed one and stopped ones too.
type agentChannel struct {
	store      agentLister
	pool       *pool
	verifierID string
	retries    int
	slots      chan struct{} // broadcasts at a time: they must leave room for attestation

	mu   sync.Mutex
	left map[uint64]map[string]bool // by event: the agents still to be told; lost on restart, when all are told again
}

type agentLister interface {
	Agents(ctx context.Context, f store.Filter, after string, max int) ([]store.Agent, error)
}

func newAgentChannel(s agentLister, p *pool, verifierID string, retries int) *agentChannel {
	return &agentChannel{
		store: s, pool: p, verifierID: verifierID, retries: retries,
		slots: make(chan struct{}, maxBroadcasts), left: map[uint64]map[string]bool{},
	}
}

func (c *agentChannel) patience() (int, time.Duration) { return c.retries + 1, notify.Lifetime }

// Send tells everybody, or at a later attempt those who were not reached before.
func (c *agentChannel) Send(ctx context.Context, e store.Event) error {
	select {
	case c.slots <- struct{}{}:
		defer func() { <-c.slots }()
	default:
		return errBusy
	}
	var n api.Notification
	if err := json.Unmarshal(e.Message, &n); err != nil {
		return fmt.Errorf("message in the outbox: %w", err)
	}
	todo, again := c.remaining(e.ID)
	missed, err := c.broadcast(ctx, n, func(id string) bool { return !again || todo[id] })
	if err != nil {
		return err
	}
	last := e.Attempts >= c.retries
	c.remember(e.ID, missed, last)
	if len(missed) > 0 {
		return fmt.Errorf("%d agents were not reached", len(missed))
	}
	return nil
}

// broadcast posts to the agents that want selects, and returns those that did not take the message.
func (c *agentChannel) broadcast(ctx context.Context, n api.Notification, want func(id string) bool) (map[string]bool, error) {
	missed := map[string]bool{}
	var mu sync.Mutex
	var wg sync.WaitGroup
	defer wg.Wait()
	width := make(chan struct{}, broadcastWidth)
	after := ""
	for {
		page, err := c.store.Agents(ctx, store.Filter{VerifierID: c.verifierID}, after, listPage)
		if err != nil {
			return nil, fmt.Errorf("list agents: %w", err)
		}
		for _, a := range page {
			after = a.ID
			if a.Spec.Push || !want(a.ID) { // those who call in take it with their next answer
				continue
			}
			width <- struct{}{}
			wg.Go(func() {
				defer func() { <-width }()
				if c.tell(ctx, a, n) != nil {
					mu.Lock()
					missed[a.ID] = true
					mu.Unlock()
				}
			})
		}
		if len(page) < listPage {
			wg.Wait()
			return missed, nil
		}
	}
}

func (c *agentChannel) tell(ctx context.Context, a store.Agent, n api.Notification) error {
	ctx, cancel := context.WithTimeout(ctx, tellTimeout)
	defer cancel()
	return c.pool.client(peerOf(a.Spec)).Revoke(ctx, a.Status.APIVersion, n)
}

func (c *agentChannel) remaining(eventID uint64) (todo map[string]bool, again bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	todo, again = c.left[eventID]
	return todo, again
}

func (c *agentChannel) remember(eventID uint64, missed map[string]bool, last bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(missed) == 0 || last {
		delete(c.left, eventID)
		return
	}
	c.left[eventID] = missed
}

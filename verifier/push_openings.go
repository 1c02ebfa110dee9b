package verifier

import (
	"maps"
	"sync"
	"time"
)

// openings counts the attestations that agents open without delivering evidence. Its memory is bounded by the number of
// enrolled agents, for nobody else gets this far. Safe for concurrent use.
type openings struct {
	mu     sync.Mutex
	agents map[string]opened
	pruned time.Time
}

// opened is what one agent did in the present window.
type opened struct {
	since time.Time
	n     int
}

// The most attestations that an agent may open in a window without delivering: many times of what retries need.
const (
	maxOpenings   = 30
	openingWindow = time.Minute
)

func newOpenings() *openings { return &openings{agents: map[string]opened{}} }

// count adds one, unless that is too many: then it returns when the window ends.
func (o *openings) count(id string, now time.Time) (wait time.Duration) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.prune(now)
	a := o.agents[id]
	age := now.Sub(a.since)
	if age < 0 || age >= openingWindow {
		a = opened{since: now}
		age = 0
	}
	if a.n == maxOpenings {
		return openingWindow - age
	}
	a.n++
	o.agents[id] = a
	return 0
}

// forget starts over: the agent has delivered.
func (o *openings) forget(id string) {
	o.mu.Lock()
	defer o.mu.Unlock()
	delete(o.agents, id)
}

// prune drops windows that have ended. o.mu is held.
func (o *openings) prune(now time.Time) {
	if age := now.Sub(o.pruned); age >= 0 && age < openingWindow {
		return
	}
	o.pruned = now
	maps.DeleteFunc(o.agents, func(_ string, a opened) bool { return now.Sub(a.since).Abs() >= openingWindow })
}

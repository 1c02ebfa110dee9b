package web

import (
	"maps"
	"net/netip"
	"sync"
	"time"
)

// Limiter gives each key a bucket of tokens that fills at a rate. It is safe for concurrent use, and bounded: when it
// knows too many keys it forgets those whose bucket is full, and if there are none, an arbitrary one.
type Limiter struct {
	every time.Duration // time for one token
	burst int           // tokens of a full bucket
	max   int           // keys known at once

	mu   sync.Mutex
	full map[string]time.Time // when the key's bucket will be full
}

// NewLimiter has a token more for each key after each time every, up to burst, for at most max keys.
func NewLimiter(every time.Duration, burst, max int) *Limiter {
	return &Limiter{every: every, burst: burst, max: max, full: make(map[string]time.Time)}
}

// Take takes a token. Without one it returns how long to wait.
func (l *Limiter) Take(key string, now time.Time) (wait time.Duration, ok bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	full := l.full[key]
	if full.Before(now) {
		full = now
	}
	full = full.Add(l.every)
	if wait := full.Sub(now) - time.Duration(l.burst)*l.every; wait > 0 {
		return wait, false
	}
	if _, known := l.full[key]; !known && len(l.full) >= l.max {
		l.forget(now)
	}
	l.full[key] = full
	return 0, true
}

// Refill fills the bucket of a key.
func (l *Limiter) Refill(key string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.full, key)
}

func (l *Limiter) forget(now time.Time) {
	maps.DeleteFunc(l.full, func(_ string, full time.Time) bool { return !full.After(now) })
	for key := range l.full {
		if len(l.full) < l.max {
			return
		}
		delete(l.full, key)
	}
}

// Sender is the key of a client: its IPv4 address, or the /64 of its IPv6 address, of which one machine has many.
func Sender(a netip.Addr) string {
	if a.Is6() {
		if p, err := a.WithZone("").Prefix(64); err == nil {
			return p.String()
		}
	}
	return a.String()
}

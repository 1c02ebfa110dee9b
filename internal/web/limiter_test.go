package web

import (
	"fmt"
	"net/netip"
	"testing"
	"time"
)

func TestLimiter(t *testing.T) {
	t.Parallel()
	l := NewLimiter(time.Second, 3, 100)
	now := time.Unix(1_000_000, 0)
	for i := range 3 {
		if _, ok := l.Take("a", now); !ok {
			t.Fatalf("token %d of the bucket refused", i)
		}
	}
	if wait, ok := l.Take("a", now); ok || wait != time.Second {
		t.Fatalf("beyond the bucket: %v, %v", wait, ok)
	}
	if _, ok := l.Take("b", now); !ok {
		t.Error("another key has a bucket of its own")
	}
	if _, ok := l.Take("a", now.Add(time.Second)); !ok {
		t.Error("a token after a second")
	}
	if _, ok := l.Take("a", now.Add(time.Second)); ok {
		t.Error("one token a second, no more")
	}
	later := now.Add(time.Hour)
	for i := range 4 {
		if _, ok := l.Take("a", later); ok != (i < 3) {
			t.Errorf("after an hour, token %d: %v", i, ok)
		}
	}
}

// NT-49
func TestLimiterIsBounded(t *testing.T) {
	t.Parallel()
	l := NewLimiter(time.Second, 3, 100)
	now := time.Unix(1_000_000, 0)
	for i := range 10_000 {
		if _, ok := l.Take(fmt.Sprint(i), now.Add(time.Duration(i)*time.Millisecond)); !ok {
			t.Fatalf("new key %d refused", i)
		}
	}
	if len(l.full) > 100 {
		t.Errorf("%d keys are kept", len(l.full))
	}
}

func TestSender(t *testing.T) {
	t.Parallel()
	for a, want := range map[string]string{
		"192.0.2.1": "192.0.2.1", "2001:db8:1:2:3::4": "2001:db8:1:2::/64", "2001:db8:1:2:ffff::": "2001:db8:1:2::/64", "fe80::1%eth0": "fe80::/64",
	} {
		if got := Sender(netip.MustParseAddr(a)); got != want {
			t.Errorf("Sender(%s) = %s, want %s", a, got, want)
		}
	}
}

func TestRefilledBucketIsFull(t *testing.T) {
	t.Parallel()
	l, now := NewLimiter(time.Second, 3, 100), time.Unix(1_800_000_000, 0)
	for range 2 {
		for range 3 {
			if _, ok := l.Take("a", now); !ok {
				t.Error("refused")
			}
		}
		if _, ok := l.Take("a", now); ok {
			t.Error("one too many")
		}
		l.Refill("a")
	}
}

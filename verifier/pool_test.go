package verifier

import (
	"context"
	"errors"
	"io"
	"net/http"
	"sync/atomic"
	"testing"
	"testing/synctest"
)

// A connection that was closed is opened anew with the TLS session of the last one.
func TestSessionsAreResumed(t *testing.T) {
	t.Parallel()
	agent := startAgent(t, "a1")
	var resumed atomic.Int32
	agent.become(func(_ http.ResponseWriter, r *http.Request) bool {
		if r.TLS.DidResume {
			resumed.Add(1)
		}
		return false
	})
	v := startVerifier(t, fastConfig(t), openStore(t))
	v.add(t, agent, agent.enrolment(""))
	v.passes(t, "a1", 2)
	if resumed.Load() != 0 {
		t.Error("the first connection was resumed")
	}
	eventually(t, func() bool {
		v.pool.close() // whatever is idle at the moment
		return resumed.Load() > 0
	}, func() { t.Error("no session was resumed") })
}

// Two agents at one address, one after the other, share neither connection nor session.
func TestPeersDoNotShareConnections(t *testing.T) {
	t.Parallel()
	a := peer{"192.0.2.1:9002", "cert A"}
	for _, b := range []peer{{"192.0.2.1:9002", "cert B"}, {"192.0.2.1:9003", "cert A"}, {"192.0.2.1:9002", ""}} {
		if a.name() == b.name() {
			t.Errorf("%+v and %+v share a name", a, b)
		}
	}
}

// IPv6 literals are bracketed.
func TestAddressesInURLs(t *testing.T) {
	t.Parallel()
	for host, want := range map[string]string{"2001:db8::1": "[2001:db8::1]:9002", "192.0.2.1": "192.0.2.1:9002", "host.example": "host.example:9002"} {
		if got := joinHostPort(host, 9002); got != want {
			t.Errorf("%s: %s, want %s", host, got, want)
		}
	}
}

// Answers above a size wait for a slot, so that not all of them are in memory at once.
func TestLargeAnswersTakeTurns(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		slots := make(chan struct{}, 1)
		open := func(ctx context.Context) *boundedBody {
			endless := io.NopCloser(io.LimitReader(zeros{}, 3*largeAnswer))
			return &boundedBody{ReadCloser: endless, ctx: ctx, slots: slots}
		}
		first, second := open(t.Context()), open(t.Context())
		if _, err := io.ReadAll(first); err != nil {
			t.Fatal(err)
		}
		done := false
		go func() {
			n, err := io.Copy(io.Discard, second)
			done = n == 3*largeAnswer && err == nil
		}()
		synctest.Wait()
		if done || second.read > largeAnswer+64<<10 {
			t.Errorf("the second answer was read up to %d bytes beside the first", second.read)
		}
		ctx, cancel := context.WithCancelCause(t.Context())
		third := open(ctx)
		cancel(errStopping)
		if _, err := io.ReadAll(third); !errors.Is(err, errStopping) {
			t.Errorf("waiting does not end with the request: %v", err)
		}
		_ = third.Close()
		_ = first.Close()
		_ = first.Close()
		synctest.Wait()
		if !done {
			t.Error("the second answer was not read after the first")
		}
	})
}

package tenant

import (
	"context"
	"errors"
	"slices"
	"testing"
	"testing/synctest"
	"time"
)

func TestDelaysGrowAsConfigured(t *testing.T) {
	t.Parallel()
	s := time.Second
	for _, c := range []struct {
		name string
		p    patience
		want []time.Duration
	}{
		{"default", patience{2 * s, 5, true}, []time.Duration{2 * s, 4 * s, 8 * s, 16 * s}},
		{"steady", patience{3 * s, 3, false}, []time.Duration{3 * s, 3 * s}},
		{"one try", patience{s, 1, true}, nil},
		{"no tries", patience{s, 0, true}, nil},
		{"half a second", patience{s / 2, 3, true}, []time.Duration{s / 2, s}},
	} {
		var got []time.Duration
		var sum time.Duration
		for n := 1; ; n++ {
			d, more := c.p.delay(n)
			if !more {
				break
			}
			got, sum = append(got, d), sum+d
		}
		if !slices.Equal(got, c.want) || c.p.total() != sum {
			t.Errorf("%s: got %v (total %v), want %v", c.name, got, c.p.total(), c.want)
		}
	}
	if d, _ := (patience{time.Hour, 1000, true}).delay(900); d != longestWait {
		t.Errorf("a delay that overflows: %v", d)
	}
}

func TestRetryStopsAtTheFirstFinalError(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		busy, no := errors.New("busy"), errors.New("no")
		tries, waits := 0, 0
		start := time.Now()
		err := patience{2 * time.Second, 5, true}.retry(t.Context(), func() (bool, error) {
			if tries++; tries < 3 {
				return false, busy
			}
			return true, no
		}, func(int, time.Duration, error) { waits++ })
		if !errors.Is(err, no) || tries != 3 || waits != 2 || time.Since(start) != 6*time.Second {
			t.Errorf("got %v after %d tries, %d waits and %v", err, tries, waits, time.Since(start))
		}
		tries = -100
		if err := (patience{time.Second, 4, false}).retry(t.Context(), func() (bool, error) { tries++; return false, busy }, func(int, time.Duration, error) {}); !errors.Is(err, busy) || tries != -96 {
			t.Errorf("used up: %v after %d tries", err, tries+100)
		}
	})
}

func TestPollSeesSoonAndWaitsLong(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := patience{2 * time.Second, 5, true}
		start := time.Now()
		ready := start.Add(120 * time.Millisecond)
		told := 0
		done, err := p.poll(t.Context(), func() (bool, error) { return !time.Now().Before(ready), nil }, func(time.Duration) { told++ })
		if waited := time.Since(start); !done || err != nil || waited > 200*time.Millisecond || told != 0 {
			t.Errorf("ready after 120ms: seen after %v, %v, %v; told %d times", waited, done, err, told)
		}
		start = time.Now()
		done, err = p.poll(t.Context(), func() (bool, error) { return false, nil }, func(time.Duration) { told++ })
		if waited := time.Since(start); done || err != nil || waited != 30*time.Second || told != 1 {
			t.Errorf("never ready: gave up after %v, %v, %v; told %d times", waited, done, err, told)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if _, err := p.poll(ctx, func() (bool, error) { return false, nil }, func(time.Duration) {}); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("cancelled: %v", err)
		}
	})
}

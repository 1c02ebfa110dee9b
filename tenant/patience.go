package tenant

import (
	"context"
	"math"
	"time"
)

// patience is how long to wait for a peer: retry_interval, max_retries and exponential_backoff of [tenant].
type patience struct {
	interval    time.Duration
	tries       int
	exponential bool
}

const longestWait = time.Hour // a mistyped option must not overflow, or hang a command for days

// delay is the wait after the n-th failed try, n from 1; false when that was the last try.
func (p patience) delay(n int) (time.Duration, bool) {
	if n >= p.tries {
		return 0, false
	}
	if !p.exponential {
		return min(p.interval, longestWait), true
	}
	d := float64(p.interval) * math.Pow(2, float64(n-1))
	return time.Duration(min(d, float64(longestWait))), true
}

// total is the sum of all delays.
func (p patience) total() time.Duration {
	var sum time.Duration
	for n := 1; ; n++ {
		d, more := p.delay(n)
		if !more || sum > longestWait {
			return min(sum, longestWait)
		}
		sum += d
	}
}

// retry calls try until it succeeds, says that the error is final, or the tries are used up. waiting is told before
// each wait.
func (p patience) retry(ctx context.Context, try func() (final bool, err error), waiting func(n int, d time.Duration, err error)) error {
	for n := 1; ; n++ {
		final, err := try()
		if err == nil || final {
			return err
		}
		d, more := p.delay(n)
		if !more {
			return err
		}
		waiting(n, d, err)
		if err := sleep(ctx, d); err != nil {
			return err
		}
	}
}

// poll calls try in short steps, which grow to the retry interval, until it is done or the whole patience is used
// up. It reports whether it was done. Something that happens within milliseconds is seen within milliseconds; slow is
// called once, when it takes longer than a person expects.
func (p patience) poll(ctx context.Context, try func() (done bool, err error), slow func(left time.Duration)) (bool, error) {
	const firstStep, unnoticed = 50 * time.Millisecond, time.Second
	left, waited := p.total(), time.Duration(0)
	for step := firstStep; ; step = min(2*step, p.interval) {
		done, err := try()
		if done || err != nil {
			return done, err
		}
		if left <= 0 {
			return false, nil
		}
		step = max(min(step, left), time.Millisecond)
		if waited < unnoticed && waited+step >= unnoticed {
			slow(left)
		}
		if err := sleep(ctx, step); err != nil {
			return false, err
		}
		left, waited = left-step, waited+step
	}
}

func sleep(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

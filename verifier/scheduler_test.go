package verifier

import (
	"context"
	"errors"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/rs/zerolog"
)

// queue is work with due times, in memory. Each job takes some time and is due again after an interval.
type queue struct {
	mu       sync.Mutex
	due      map[string]time.Time // not there while it runs
	takes    time.Duration
	interval time.Duration // 0 = not again
	running  int
	most     int // at once
	late     time.Duration
	ran      map[string]int
	claims   int
	fail     error
}

func newQueue(takes, interval time.Duration) *queue {
	return &queue{due: map[string]time.Time{}, ran: map[string]int{}, takes: takes, interval: interval}
}

func (q *queue) add(id string, due time.Time) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.due[id] = due
}

func (q *queue) claim(_ context.Context, now time.Time, most int) ([]job, error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.claims++
	if q.fail != nil {
		return nil, q.fail
	}
	var jobs []job
	for id, due := range q.due {
		if len(jobs) == most || due.After(now) {
			continue
		}
		delete(q.due, id)
		q.late = max(q.late, now.Sub(due))
		jobs = append(jobs, func(ctx context.Context) (time.Time, bool) { return q.run(ctx, id) })
	}
	return jobs, nil
}

func (q *queue) run(ctx context.Context, id string) (time.Time, bool) {
	q.mu.Lock()
	q.running++
	q.most = max(q.most, q.running)
	q.mu.Unlock()
	takes := q.takes
	if strings.HasPrefix(id, "stuck") {
		takes = time.Minute
	}
	if id == "panics" {
		defer func() {
			q.mu.Lock()
			q.running--
			q.mu.Unlock()
		}()
		panic("made to")
	}
	pause(ctx, takes, nil)
	q.mu.Lock()
	defer q.mu.Unlock()
	q.running--
	q.ran[id]++
	if q.interval == 0 {
		return time.Time{}, false
	}
	q.due[id] = time.Now().Add(q.interval)
	return q.due[id], true
}

// times is how often a job ran so far.
func (q *queue) times(id string) int {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.ran[id]
}

func (q *queue) next(context.Context) (time.Time, bool, error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	var first time.Time
	for _, due := range q.due {
		if first.IsZero() || due.Before(first) {
			first = due
		}
	}
	return first, !first.IsZero(), q.fail
}

func (q *queue) feed(slots int) *feed {
	return &feed{name: "test", slots: make(chan struct{}, slots), slow: make(chan struct{}, 100), claim: q.claim, due: q.next}
}

// schedule runs a scheduler over the queue for a while of virtual time.
func schedule(t *testing.T, q *queue, slots int, f func(s *scheduler)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		s := newScheduler(zerolog.Nop(), q.feed(slots))
		done := make(chan struct{})
		go func() { defer close(done); s.run(ctx, time.Second) }()
		f(s)
		cancel()
		<-done
	})
}

func TestSchedulerIsOnTime(t *testing.T) {
	t.Parallel()
	q := newQueue(300*time.Millisecond, 2*time.Second)
	schedule(t, q, 512, func(*scheduler) {
		for i := range 100 { // one every 20 ms
			q.add(string(rune('a'+i)), time.Now().Add(time.Duration(i)*20*time.Millisecond))
		}
		time.Sleep(23 * time.Second)
	})
	for id, n := range q.ran {
		if n < 9 || n > 11 { // 23 s at 2.3 s a round, and what was under way at the end
			t.Errorf("%q ran %d times", id, n)
		}
	}
	if len(q.ran) != 100 || q.late > 2*minIdle {
		t.Errorf("%d ran, up to %v late", len(q.ran), q.late)
	}
}

// A job that is due earlier than anything known is not overslept, whoever makes it so.
func TestSchedulerIsWoken(t *testing.T) {
	t.Parallel()
	q := newQueue(time.Millisecond, 300*time.Millisecond)
	schedule(t, q, 8, func(s *scheduler) {
		time.Sleep(1500 * time.Millisecond) // idle: it looks once a second
		q.add("a", time.Now())
		s.wake()
		time.Sleep(50 * time.Millisecond)
		if n := q.times("a"); n != 1 {
			t.Errorf("ran %d times within 50 ms of the wake-up", n)
		}
		time.Sleep(3 * time.Second)
	})
	if q.ran["a"] < 9 { // its own commits make it due before the scheduler would look
		t.Errorf("ran %d times in 3 s at 300 ms", q.ran["a"])
	}
}

func TestSchedulerBoundsItsJobs(t *testing.T) {
	t.Parallel()
	q := newQueue(100*time.Millisecond, 0)
	schedule(t, q, 4, func(*scheduler) {
		for i := range 40 {
			q.add(string(rune('a'+i)), time.Now())
		}
		time.Sleep(2500 * time.Millisecond) // 40 jobs, 4 at a time: 1 s, and a second until it first looks
	})
	if q.most != 4 || len(q.ran) != 40 {
		t.Errorf("%d jobs at once, %d ran", q.most, len(q.ran))
	}
}

// Jobs that hang take places of their own, and the others are late once at most.
func TestSchedulerGoesOnBesideStuckJobs(t *testing.T) {
	t.Parallel()
	q := newQueue(10*time.Millisecond, time.Second)
	schedule(t, q, 4, func(*scheduler) {
		for i := range 20 {
			q.add("stuck"+string(rune('a'+i)), time.Now())
		}
		for i := range 20 {
			q.add(string(rune('a'+i)), time.Now())
		}
		time.Sleep(30 * time.Second) // 20 stuck in 4 slots: at most 10 s
		q.mu.Lock()
		q.late = 0
		q.mu.Unlock()
		time.Sleep(20 * time.Second)
	})
	if q.late > 20*time.Millisecond {
		t.Errorf("up to %v late beside stuck jobs", q.late)
	}
	for id, n := range q.ran {
		if len(id) == 1 && n < 30 {
			t.Errorf("%q ran %d times in 50 s", id, n)
		}
	}
}

// A panic costs the job and gives its slot back.
func TestSchedulerSurvivesAPanic(t *testing.T) {
	t.Parallel()
	q := newQueue(time.Millisecond, 0)
	schedule(t, q, 1, func(*scheduler) {
		q.add("panics", time.Now())
		time.Sleep(2 * time.Second)
		q.add("a", time.Now())
		time.Sleep(2 * time.Second)
	})
	if q.ran["a"] != 1 {
		t.Errorf("after the panic: %v", q.ran)
	}
}

// Nothing to do costs next to nothing, and a store that fails is not pestered.
func TestSchedulerIdles(t *testing.T) {
	t.Parallel()
	for name, fail := range map[string]error{"idle": nil, "failing store": errors.New("broken")} {
		q := newQueue(0, 0)
		q.fail = fail
		schedule(t, q, 4, func(*scheduler) { time.Sleep(100 * time.Second) })
		if q.claims > 102 {
			t.Errorf("%s: looked %d times in 100 s", name, q.claims)
		}
	}
}

// Stopping lets jobs finish, for so long.
func TestSchedulerDrains(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ takes, stopsAfter time.Duration }{
		{500 * time.Millisecond, 500 * time.Millisecond},
		{time.Hour, time.Second}, // the drain time
	} {
		q := newQueue(c.takes, 0)
		synctest.Test(t, func(t *testing.T) {
			ctx, cancel := context.WithCancel(t.Context())
			s := newScheduler(zerolog.Nop(), q.feed(1))
			q.add("a", time.Now())
			var stopped time.Time
			done := make(chan struct{})
			go func() { defer close(done); s.run(ctx, time.Second); stopped = time.Now() }()
			synctest.Wait()
			start := time.Now()
			cancel()
			<-done
			if d := stopped.Sub(start); d != c.stopsAfter {
				t.Errorf("a job of %v: stopped after %v, want %v", c.takes, d, c.stopsAfter)
			}
		})
		if q.ran["a"] != 1 {
			t.Errorf("a job of %v ran %d times", c.takes, q.ran["a"])
		}
	}
}

func TestJumpOfTheClock(t *testing.T) {
	t.Parallel()
	before := time.Now()
	if by := jump(before, before.Add(time.Second)); by != 0 {
		t.Errorf("time that passed is a jump of %v", by)
	}
	if by := jump(time.Time{}, before); by != 0 {
		t.Errorf("the first look is a jump of %v", by)
	}
	// A time without a monotonic reading differs from one with it by what the clock was set.
	if by := jump(before, before.Add(-time.Hour).Round(0)); by != 0 {
		t.Errorf("without readings there is nothing to compare: %v", by)
	}
}

package verifier

import (
	"context"
	"math"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"time"

	"github.com/rs/zerolog"
)

// scheduler claims what is due, runs it, and sleeps until the next thing is: rounds of agents and deliveries of
// messages alike. One goroutine looks; each job has its own, and their number is bounded. An idle agent costs
// nothing but its place in the store.
type scheduler struct {
	feeds []*feed
	log   zerolog.Logger
	kick  chan struct{} // capacity 1: look again now
	looks atomic.Int64  // when the next look is, Unix nanoseconds

	last   time.Time // of the looks
	jumped func(ctx context.Context, by time.Duration)
}

// feed is one kind of work.
type feed struct {
	name  string
	slots chan struct{} // one taken by each job under way
	// slow, when there is room, takes over the place of a job that has been under way for slowAfter: those who wait for
	// agents that do not answer must not keep others from their rounds.
	slow chan struct{}
	// claim leases up to n jobs that are due. A job returns when something is due because of it, if it knows.
	claim func(ctx context.Context, now time.Time, n int) ([]job, error)
	// due is when the next job is due; false when there is none or nobody knows.
	due func(ctx context.Context) (time.Time, bool, error)

	starved atomic.Bool // work was left because no slot was free
}

type job func(ctx context.Context) (due time.Time, ok bool)

func newScheduler(log zerolog.Logger, feeds ...*feed) *scheduler {
	return &scheduler{feeds: feeds, log: log, kick: make(chan struct{}, 1)}
}

// wake has the scheduler look soon. It never blocks.
func (s *scheduler) wake() {
	select {
	case s.kick <- struct{}{}:
	default:
	}
}

// run works until ctx ends. Then nothing new is begun; jobs under way get drain to finish before their contexts
// are cancelled with errStopping, and run returns when the last one has.
func (s *scheduler) run(ctx context.Context, drain time.Duration) {
	jobs, cancel := context.WithCancelCause(context.WithoutCancel(ctx))
	defer cancel(nil)
	var wg sync.WaitGroup
	for ctx.Err() == nil {
		wait := s.look(ctx, jobs, &wg)
		// Looking costs a transaction: what becomes due within a moment is looked for together.
		pause(ctx, minIdle, nil)
		pause(ctx, wait-minIdle, s.kick)
	}
	stop := time.AfterFunc(drain, func() { cancel(errStopping) })
	defer stop.Stop()
	wg.Wait()
}

// pause waits for d, the end of ctx or a wake-up.
func pause(ctx context.Context, d time.Duration, wake <-chan struct{}) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
	case <-timer.C:
	case <-wake:
	}
}

// look starts what is due and returns how long there is nothing more to do.
func (s *scheduler) look(ctx, jobs context.Context, wg *sync.WaitGroup) time.Duration {
	now := time.Now()
	if by := jump(s.last, now); by.Abs() > clockJump && s.jumped != nil {
		s.jumped(ctx, by)
	}
	s.last = now
	s.looks.Store(math.MaxInt64) // whatever becomes due while we look may be missed
	wait := maxIdle
	for _, f := range s.feeds {
		w, err := s.serve(ctx, jobs, f, wg)
		if err != nil && ctx.Err() == nil {
			s.log.Error().Err(err).Str("work", f.name).Msg("Store does not say what is due; trying again")
			w = storeRetry
		}
		wait = min(wait, w)
	}
	s.looks.Store(time.Now().Add(wait).UnixNano())
	return wait
}

// jump is by how much the clock was set between two times that it gave.
func jump(before, now time.Time) time.Duration {
	if before.IsZero() {
		return 0
	}
	return now.Round(0).Sub(before.Round(0)) - now.Sub(before) // without and with the monotonic readings
}

// serve starts the jobs of one feed that are due, as far as there are slots, and returns how long none will be.
func (s *scheduler) serve(ctx, jobs context.Context, f *feed, wg *sync.WaitGroup) (time.Duration, error) {
	for {
		free := min(cap(f.slots)-len(f.slots), claimBatch)
		if free == 0 {
			f.starved.Store(true)
			if len(f.slots) == cap(f.slots) {
				return maxIdle, nil // the end of a job wakes us
			}
			continue
		}
		batch, err := f.claim(ctx, time.Now().UTC(), free)
		if err != nil {
			return storeRetry, err
		}
		for _, j := range batch {
			f.slots <- struct{}{} // does not block: nobody else takes slots
			wg.Go(func() { s.finish(jobs, f, j) })
		}
		if len(batch) == free {
			continue
		}
		due, ok, err := f.due(ctx)
		if err != nil || !ok {
			return maxIdle, err
		}
		return time.Until(due), nil
	}
}

// finish runs a job, frees its slot, and wakes the scheduler when there is a reason to look before it would.
func (s *scheduler) finish(ctx context.Context, f *feed, j job) {
	place := &place{feed: f, in: f.slots}
	timer := time.AfterFunc(slowAfter, func() {
		if place.makeRoom() && f.starved.Swap(false) {
			s.wake()
		}
	})
	due, ok := s.guarded(ctx, f, j)
	timer.Stop()
	place.leave()
	if f.starved.Swap(false) || ok && due.UnixNano() < s.looks.Load() {
		s.wake()
	}
}

// guarded runs a job. A panic that the job itself did not catch is a bug; it costs the job, not the process.
func (s *scheduler) guarded(ctx context.Context, f *feed, j job) (due time.Time, ok bool) {
	defer func() {
		if p := recover(); p != nil {
			s.log.Error().Str("work", f.name).Interface("panic", p).Bytes("stack", debug.Stack()).Msg("Job panicked")
		}
	}()
	return j(ctx)
}

// place is where a job counts: in its feed's slots, or among the slow ones.
type place struct {
	feed *feed
	mu   sync.Mutex
	in   chan struct{} // nil when it has left
}

// makeRoom moves the job among the slow ones if there is room.
func (p *place) makeRoom() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.in == nil {
		return false
	}
	select {
	case p.feed.slow <- struct{}{}:
		<-p.in
		p.in = p.feed.slow
		return true
	default:
		return false
	}
}

func (p *place) leave() {
	p.mu.Lock()
	defer p.mu.Unlock()
	<-p.in
	p.in = nil
}

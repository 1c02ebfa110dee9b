package storetest

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"time"

	"keylime/internal/attest"
	"keylime/store"
)

// crashEnv names the storage to a process that is to be killed.
const crashEnv = "KEYLIME_STORETEST_CRASH"

// Crash kills a process that writes, with SIGKILL, again and again, and looks at what is left: whatever was
// acknowledged must be there, and what was deleted must not. storage is new; open opens it. The test that calls Crash
// is run again as the process to be killed, and must do nothing else.
func Crash(t *testing.T, storage string, open func(t testing.TB, storage string) Engine) {
	if inherited := os.Getenv(crashEnv); inherited != "" {
		write(open(t, inherited))
		return
	}
	length := 8 * time.Second
	if testing.Short() {
		length = time.Second
	}
	acknowledged := map[string]int{}
	kills := 0
	for end := time.Now().Add(length); time.Now().Before(end); kills++ {
		for id, step := range killWriter(t, storage, kills) {
			acknowledged[id] = step
		}
		b := &rig{TB: t, Engine: open(t, storage), ctx: context.Background()}
		for id, step := range acknowledged {
			checkLife(b, id, step)
		}
		checkNoStrays(b)
		b.ok(b.Close())
	}
	t.Logf("%d kills, %d agents", kills, len(acknowledged))
	if len(acknowledged) < kills {
		t.Fatalf("only %d agents in %d processes: nothing was tested", len(acknowledged), kills)
	}
}

// killWriter runs a process that writes, kills it after a while, and returns the last step that it acknowledged for
// each agent.
func killWriter(t *testing.T, storage string, run int) map[string]int {
	cmd := exec.Command(os.Args[0], "-test.run=^"+t.Name()+"$")
	cmd.Env = append(os.Environ(), crashEnv+"="+storage, fmt.Sprintf("%s_RUN=%d", crashEnv, run))
	cmd.Stderr = os.Stderr
	// The writer ends when this pipe closes: it does not outlive the test.
	if _, err := cmd.StdinPipe(); err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	acknowledged := map[string]int{}
	var deadline *time.Timer
	for lines := bufio.NewScanner(out); lines.Scan(); {
		var id string
		var step int
		if n, _ := fmt.Sscanf(lines.Text(), "done %s %d", &id, &step); n != 2 {
			t.Errorf("writer: %s", lines.Text())
			continue
		}
		acknowledged[id] = step
		if deadline == nil { // it works: from now on it may die any time
			deadline = time.AfterFunc(time.Duration(rand.IntN(400))*time.Millisecond, func() { _ = cmd.Process.Kill() })
		}
	}
	_ = cmd.Wait() // "signal: killed"
	return acknowledged
}

// write lives the lives of agents, many at once, until the process is killed.
func write(e Engine) {
	go func() {
		_, _ = io.Copy(io.Discard, os.Stdin)
		os.Exit(1)
	}()
	var writers sync.WaitGroup
	for w := range 16 {
		writers.Go(func() {
			for n := 0; ; n++ {
				live(e, fmt.Sprintf("%s-%d-%d", os.Getenv(crashEnv+"_RUN"), w, n))
			}
		})
	}
	writers.Wait()
}

// A life is what happens to an agent and its registration, step by step. Each step is acknowledged when it is over.
const (
	staged = 1 + iota
	activated
	enrolled
	firstRound // durable, with an event
	round2     // these three may be lost for a second
	round3
	round4
	opened      // a session
	handed      // a payload
	begun       // an attestation
	judgedRound // durable with it
	stopped
	reactivated
	failedRound // with another event
	deregistered
	deleted
)

// survives tells agents that are never deleted.
func survives(id string) bool { return strings.HasSuffix(id, "0") }

func live(e Engine, id string) {
	b := &rig{Engine: e, ctx: context.Background()}
	var rev uint64
	steps := map[int]func() error{
		staged: func() (err error) {
			rev, err = e.Stage(b.ctx, registration(id, id), t0, ttl)
			return err
		},
		activated: func() error { return e.Activate(b.ctx, id, rev, t0) },
		enrolled: func() error {
			a := agent(id)
			a.Spec.VerifierID, a.Spec.RuntimePolicy = "verifier of "+id, id
			return e.AddAgent(b.ctx, a, policy(id, "{}"))
		},
		opened: func() error { return e.OpenSession(b.ctx, session(id)) },
		handed: func() error {
			_, err := e.PutPayload(b.ctx, payload(id))
			return err
		},
		begun: func() error {
			_, err := e.BeginAttestation(b.ctx, attestation(id))
			return err
		},
		stopped:      func() error { return e.StopAgent(b.ctx, id) },
		reactivated:  func() error { return e.ReactivateAgent(b.ctx, id, t0) },
		deregistered: func() error { return e.Deregister(b.ctx, id) },
		deleted:      func() error { return e.DeleteAgent(b.ctx, id) },
	}
	for step := staged; step <= deleted; step++ {
		if step == deregistered && survives(id) {
			return
		}
		do := steps[step]
		if do == nil {
			do = func() error { return runRound(b, id, step) }
		}
		if err := do(); err != nil {
			fmt.Printf("%s: step %d: %v\n", id, step, err)
			os.Exit(1)
		}
		fmt.Printf("done %s %d\n", id, step)
	}
}

func runRound(b *rig, id string, step int) error {
	l, err := leaseFor(b, id, step)
	if err != nil {
		return err
	}
	n := l.Agent.Status.AttestationCount + 1
	r := store.Round{Status: l.Agent.Status, State: attest.State{Attested: true, Shown: uint64(n)}, Next: at(n)}
	r.Status.AttestationCount = n
	r.Status.Operational = store.StateGetQuote
	switch step {
	case firstRound:
		r.Events = []store.Event{event("first of "+id, 0)}
	case judgedRound:
		r.Attestation, r.Session = judged(attestation(id), store.EvaluationPass), endOfTime
	case failedRound:
		r.Status.Operational = store.StateFailed
		r.Events = []store.Event{event("second of "+id, 0)}
	}
	return b.Commit(b.ctx, l, r, endOfTime)
}

func leaseFor(b *rig, id string, step int) (store.Lease, error) {
	if step == judgedRound {
		return b.Lease(b.ctx, id, owner, endOfTime, ttl)
	}
	leases, err := b.Claim(b.ctx, "verifier of "+id, owner, endOfTime, 1, ttl)
	if err != nil || len(leases) != 1 {
		return store.Lease{}, fmt.Errorf("%d leases (%w)", len(leases), err)
	}
	return leases[0], nil
}

// outlook is how an agent may be found.
type outlook struct {
	exists       bool
	state        store.OperationalState
	min, max     int // rounds
	events       int
	isRegistered bool
	calls        string // what belongs to an agent that calls in, see callsOf
}

// after is the outlook when that step was acknowledged and no other was begun.
func (o outlook) after(step int) outlook {
	switch step {
	case activated:
		o.isRegistered = true
	case enrolled:
		o.exists, o.state = true, store.StateStart
	case firstRound:
		o.state, o.min, o.max, o.events = store.StateGetQuote, 1, 1, 1
	case round2, round3, round4:
		o.max++
	case opened:
		o.calls += " session"
	case handed:
		o.calls += " payload"
	case begun:
		o.calls += " awaiting_evidence"
	case judgedRound:
		o.min, o.max = o.max+1, o.max+1
		o.calls = " session payload verification_complete extended"
	case stopped:
		o.state, o.min = store.StateTenantFailed, o.max
	case reactivated:
		o.state = store.StateStart
	case failedRound:
		o.state, o.min, o.max, o.events = store.StateFailed, o.max+1, o.max+1, 2
	case deregistered:
		o.isRegistered = false
	case deleted:
		o = outlook{}
	}
	return o
}

// checkLife looks at an agent whose last acknowledged step is known. The one after it may have happened too.
func checkLife(b *rig, id string, step int) {
	b.Helper()
	var now outlook
	for s := staged; s <= step; s++ {
		now = now.after(s)
	}
	if problem := now.problem(b, id); problem != "" {
		last := deleted
		if survives(id) {
			last = failedRound
		}
		if step == last || now.after(step+1).problem(b, id) != "" {
			b.Fatalf("%s, after step %d: %s", id, step, problem)
		}
	}
}

// problem says what is wrong with the agent; "" when nothing is.
func (o outlook) problem(b *rig, id string) string {
	if _, err := b.Registered(b.ctx, id); (err == nil) != o.isRegistered {
		return fmt.Sprintf("registration: %v", err)
	}
	a, err := b.Agent(b.ctx, id)
	if (err == nil) != o.exists {
		return fmt.Sprintf("agent: %v", err)
	}
	if _, err := b.Policy(b.ctx, store.RuntimePolicy, id); (err == nil) != o.exists {
		return fmt.Sprintf("policy: %v", err)
	}
	if calls := callsOf(b, id); calls != o.calls {
		return fmt.Sprintf("calls:%s, want%s", calls, o.calls)
	}
	if !o.exists {
		return ""
	}
	n := a.Status.AttestationCount
	if a.Status.Operational != o.state || n < o.min || n > o.max {
		return fmt.Sprintf("state %d after %d rounds, want %d after %d to %d", a.Status.Operational, n, o.state, o.min, o.max)
	}
	// Status, attestation state and due time must be of one round.
	mixed := false
	switch o.state {
	case store.StateStart:
		mixed = a.State.Attested || !a.Due.Equal(t0)
	case store.StateGetQuote:
		mixed = a.State.Shown != uint64(n) || !a.Due.Equal(at(n))
	case store.StateFailed, store.StateTenantFailed:
		mixed = a.State.Shown != uint64(n) || !a.Due.IsZero()
	}
	if mixed {
		return fmt.Sprintf("a mix of rounds: %d in status, %d in state, due %v", n, a.State.Shown, a.Due)
	}
	return ""
}

// checkNoStrays checks that what is left belongs together.
func checkNoStrays(b *rig) {
	b.Helper()
	agents := map[string]bool{}
	for _, a := range must[[]store.Agent](b)(b.Agents(b.ctx, store.Filter{}, "", 1e6)) {
		agents[a.ID] = true
	}
	for _, name := range must[[]string](b)(b.PolicyNames(b.ctx, store.RuntimePolicy)) {
		if !agents[name] {
			b.Fatalf("policy %s outlived its agent", name)
		}
	}
	events := map[string]int{}
	for _, e := range must[[]store.Event](b)(b.ClaimEvents(b.ctx, owner, endOfTime, 1e6, ttl)) {
		if !agents[e.AgentID] {
			b.Fatalf("event %q outlived its agent", e.Message)
		}
		events[e.AgentID]++
	}
	for id := range agents {
		n := must[store.Agent](b)(b.Agent(b.ctx, id)).Status
		want := 0
		switch {
		case n.Operational == store.StateFailed:
			want = 2
		case n.AttestationCount > 0:
			want = 1
		}
		if events[id] != want {
			b.Fatalf("%s has %d events after %d rounds, want %d", id, events[id], n.AttestationCount, want)
		}
	}
}

// callsOf lists what there is of an agent that calls in.
func callsOf(b *rig, id string) (calls string) {
	s, err := b.Session(b.ctx, session(id).ID)
	if err == nil {
		calls += " session"
	}
	if p, err := b.Payload(b.ctx, id); err == nil && string(p.Data) == string(payload(id).Data) {
		calls += " payload"
	}
	if a, err := b.LatestAttestation(b.ctx, id); err == nil {
		calls += " " + string(a.Stage)
	}
	if s.Expires.Equal(endOfTime) {
		calls += " extended"
	}
	return calls
}

package registrar

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"keylime/internal/api"
	"keylime/internal/config"
	"keylime/internal/fleet"
	"keylime/internal/web"
)

func TestRegisterActivateShowListDelete(t *testing.T) {
	t.Parallel()
	s := start(t, nil)
	for _, model := range []fleet.Model{{Alg: "ecc256"}, {Alg: "rsa2048"}} {
		m := modelled(t, "agent-"+model.Alg, model)
		ctx := t.Context()
		res, err := s.public.Register(ctx, "2.6", m.id, m.request())
		if err != nil {
			t.Fatal(err)
		}
		if _, err := s.admin.Agent(ctx, "2.6", m.id); !api.IsStatus(err, 404) || !strings.Contains(err.Error(), "has not been activated") {
			t.Fatalf("before activation: %v", err)
		}
		if err := s.public.Activate(ctx, "2.6", m.id, m.tag(t, res.Blob)); err != nil {
			t.Fatal(err)
		}
		a := s.record(t, m.id)
		if a.EKTPM != *b64(m.EKPublic()) || a.AIKTPM != *b64(m.AKPublic()) || *a.IP != "127.0.0.1" || *a.Port != 9002 ||
			*a.MTLSCert != "disabled" || a.EKCert != nil || a.RegCount != 1 {
			t.Errorf("record %+v", a)
		}
	}
	list, err := s.admin.Agents(t.Context(), "2.6")
	if err != nil || fmt.Sprint(list.UUIDs) != "[agent-ecc256 agent-rsa2048]" {
		t.Fatalf("list = %v, %v", list, err)
	}
	if err := s.admin.Delete(t.Context(), "2.6", "agent-rsa2048"); err != nil {
		t.Fatal(err)
	}
	for _, err := range []error{
		func() error { _, err := s.admin.Agent(t.Context(), "2.6", "agent-rsa2048"); return err }(),
		s.admin.Delete(t.Context(), "2.6", "agent-rsa2048"),
		s.public.Activate(t.Context(), "2.6", "agent-rsa2048", "00"),
	} {
		if !api.IsStatus(err, 404) || !strings.Contains(err.Error(), "Agent with ID 'agent-rsa2048' not found") {
			t.Errorf("of a deleted agent: %v", err)
		}
	}
}

func TestEveryFormOfTheRoutes(t *testing.T) {
	t.Parallel()
	s := start(t, nil)
	hc := httpClient(t, s.tls)
	for i, version := range []string{"v2", "v2.0", "v2.1", "v2.2", "v2.3", "v2.4", "v2.5", "v2.6"} {
		m := newMachine(t, fmt.Sprintf("agent-%d", i))
		body := m.request()
		base := []string{s.plain, s.secure}[i%2] + "/" + version + "/agents"
		target := base + "/" + m.id + []string{"", "/"}[i%2]
		if i%4 == 0 { // the form with the id in the body
			body.AgentID, target = &m.id, base
		}
		var res struct {
			Results api.RegisterResults
		}
		call(t, hc, "POST", target, body, 200, &res)
		activate := []struct{ method, path string }{{"PUT", ""}, {"PUT", "/activate"}, {"POST", "/activate"}}[i%3]
		call(t, hc, activate.method, base+"/"+m.id+activate.path, api.ActivateRequest{AuthTag: m.tag(t, res.Results.Blob)}, 200, nil)
		s.record(t, m.id)
	}
}

// call sends JSON and decodes the answer.
func call(t testing.TB, hc *http.Client, method, target string, body any, status int, into any) {
	t.Helper()
	data, err := json.Marshal(body)
	if err != nil {
		t.Fatal(err)
	}
	req, err := http.NewRequest(method, target, strings.NewReader(string(data)))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Content-Type", "application/json")
	rsp, err := hc.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer rsp.Body.Close()
	if rsp.StatusCode != status {
		t.Fatalf("%s %s = %d, want %d", method, target, rsp.StatusCode, status)
	}
	if into != nil {
		if err := json.NewDecoder(rsp.Body).Decode(into); err != nil {
			t.Fatal(err)
		}
	}
}

func TestRegCountCountsRegistrations(t *testing.T) {
	t.Parallel()
	s := start(t, nil)
	m := newMachine(t, "restarts")
	for want := 1; want <= 3; want++ {
		s.register(t, m, m.request())
		if got := s.record(t, m.id).RegCount; got != want {
			t.Fatalf("regcount = %d, want %d", got, want)
		}
	}
}

// NT-08: a wrong activation between them makes no difference to the second attempt.
func TestKnownIDCannotMoveToAnotherTPM(t *testing.T) {
	t.Parallel()
	s := start(t, nil)
	m, other := newMachine(t, "victim"), newMachine(t, "victim")
	s.register(t, m, m.request())
	before := s.record(t, m.id)
	for range 2 {
		msg := s.refused(t, m.id, other.request(), 403)
		if !strings.Contains(msg, "Agent re-registration with different TPM identity is forbidden for security reasons") {
			t.Errorf("refused with %s", msg)
		}
		if _, err := s.public.Register(t.Context(), "2.6", m.id, m.request()); err != nil {
			t.Fatal(err)
		}
		if err := s.public.Activate(t.Context(), "2.6", m.id, strings.Repeat("0", 96)); !api.IsStatus(err, 400) {
			t.Fatalf("wrong activation: %v", err)
		}
		if after := s.record(t, m.id); after.AIKTPM != before.AIKTPM || after.EKTPM != before.EKTPM || after.RegCount != before.RegCount {
			t.Errorf("record changed: %+v", after)
		}
	}
	half := m.request()
	half.AIKTPM = b64(other.AKPublic())
	s.refused(t, m.id, half, 403)
	half = m.request()
	half.AIKTPM = text("")
	s.refused(t, m.id, half, 403)
}

// NT-05
func TestWrongTagTellsNothingAndDropsOnlyThePendingRegistration(t *testing.T) {
	t.Parallel()
	s := start(t, nil)
	m := newMachine(t, "agent")
	s.register(t, m, m.request())
	before := s.record(t, m.id)

	res, err := s.public.Register(t.Context(), "2.6", m.id, m.request())
	if err != nil {
		t.Fatal(err)
	}
	right := m.tag(t, res.Blob)
	sealed, _ := base64.StdEncoding.DecodeString(res.Blob)
	secret, err := m.Activate(sealed)
	if err != nil {
		t.Fatal(err)
	}
	wrong := "00" + right[2:]
	if wrong == right {
		wrong = "01" + right[2:]
	}
	err = s.public.Activate(t.Context(), "2.6", m.id, wrong)
	if !api.IsStatus(err, 400) || !strings.Contains(err.Error(), "does not match expected value") {
		t.Fatalf("wrong tag: %v", err)
	}
	for _, said := range []string{err.Error(), s.log.String()} {
		for _, private := range []string{right, right[2:40], string(secret), base64.StdEncoding.EncodeToString(secret)} {
			if strings.Contains(said, private) {
				t.Errorf("the expected tag or its key is told: %s", said)
			}
		}
	}
	if after := s.record(t, m.id); after.RegCount != before.RegCount {
		t.Errorf("record changed: %+v", after)
	}
	if err := s.public.Activate(t.Context(), "2.6", m.id, right); !api.IsStatus(err, 404) {
		t.Errorf("the right tag after a wrong one: %v, want 404: the pending registration is gone", err)
	}
}

func TestTagForms(t *testing.T) {
	t.Parallel()
	const secret, id = "0123456789ABCDEFabcdef0123456789", "agent"
	right := tagOf(secret, id)
	for tag, want := range map[string]bool{
		right: true, strings.ToUpper(right): true, // hex is hex
		"": false, right[:94]: false, right + "00": false, "zz" + right[2:]: false, tagOf(secret, "other"): false,
		tagOf("1123456789ABCDEFabcdef0123456789", id): false, right[:95]: false, " " + right: false,
	} {
		if got := tagMatches(secret, id, tag); got != want {
			t.Errorf("tagMatches(%q) = %v", tag, got)
		}
	}
}

// NT-06
func TestWrongActivationsAreRateLimitedAndDoNotKeepTheGenuineAgentOut(t *testing.T) {
	t.Parallel()
	s := start(t, nil)
	m := newMachine(t, "agent")
	codes := map[int]int{}
	for range 200 {
		if _, err := s.db.Pending(t.Context(), m.id); err != nil && codes[429] == 0 {
			if _, err := s.public.Register(t.Context(), "2.6", m.id, m.request()); err != nil && !api.IsStatus(err, 429) {
				t.Fatal(err)
			}
		}
		err := s.public.Activate(t.Context(), "2.6", m.id, strings.Repeat("ab", 48))
		switch {
		case api.IsStatus(err, 400):
			codes[400]++
		case api.IsStatus(err, 429):
			codes[429]++
		case api.IsStatus(err, 404):
			codes[404]++
		default:
			t.Fatalf("wrong tag: %v", err)
		}
	}
	if codes[400] > wrongTagBurst {
		t.Errorf("%d wrong tags had an effect, want at most %d: %v", codes[400], wrongTagBurst, codes)
	}
	// Another agent at the same address is not kept out, and neither is one whose registration is under attack.
	other := newMachine(t, "other")
	res, err := s.public.Register(t.Context(), "2.6", other.id, other.request())
	if err != nil {
		t.Fatal(err)
	}
	for range 100 {
		if err := s.public.Activate(t.Context(), "2.6", other.id, strings.Repeat("ab", 48)); !api.IsStatus(err, 429) {
			t.Fatalf("wrong tag beyond the rate: %v", err)
		}
	}
	if err := s.public.Activate(t.Context(), "2.6", other.id, other.tag(t, res.Blob)); err != nil {
		t.Fatal(err)
	}
}

// NT-09
func TestContactDataTakesEffectOnlyWithAFreshActivation(t *testing.T) {
	t.Parallel()
	s := start(t, nil)
	m := newMachine(t, "agent")
	s.register(t, m, m.request())
	move := api.RegisterRequest{IP: text("192.0.2.66"), Port: json.RawMessage(`"6666"`), MTLSCert: text("")}
	res, err := s.public.Register(t.Context(), "2.6", m.id, move)
	if err != nil {
		t.Fatal(err)
	}
	if a := s.record(t, m.id); *a.IP != "127.0.0.1" || *a.Port != 9002 || a.MTLSCert == nil {
		t.Errorf("took effect without activation: %+v", a)
	}
	if err := s.public.Activate(t.Context(), "2.6", m.id, m.tag(t, res.Blob)); err != nil {
		t.Fatal(err)
	}
	if a := s.record(t, m.id); *a.IP != "192.0.2.66" || *a.Port != 6666 || a.MTLSCert != nil || a.AIKTPM != *b64(m.AKPublic()) {
		t.Errorf("after activation: %+v", a)
	}
}

// NT-12
func TestOfParallelFirstRegistrationsExactlyOneWins(t *testing.T) {
	t.Parallel()
	s := start(t, nil)
	const n = 50
	machines := make([]*machine, n)
	for i := range machines {
		machines[i] = newMachine(t, "contested")
	}
	s.byID = web.NewLimiter(registerIDEvery, n, limiterKeys)
	var wg sync.WaitGroup
	blobs, errs := make([]string, n), make([]error, n)
	for i, m := range machines {
		wg.Go(func() {
			res, err := s.public.Register(t.Context(), "2.6", m.id, m.request())
			blobs[i], errs[i] = res.Blob, err
		})
	}
	wg.Wait()
	winner := -1
	for i, err := range errs {
		switch {
		case err == nil && winner >= 0:
			t.Fatal("two registrations of one id were accepted")
		case err == nil:
			winner = i
		case !api.IsStatus(err, 403) || !strings.Contains(err.Error(), "already in use or a concurrent registration is in progress"):
			t.Errorf("loser: %v", err)
		}
	}
	if winner < 0 {
		t.Fatal("nobody won")
	}
	m := machines[winner]
	if err := s.public.Activate(t.Context(), "2.6", m.id, m.tag(t, blobs[winner])); err != nil {
		t.Fatal(err)
	}
	if a := s.record(t, m.id); a.EKTPM != *b64(m.EKPublic()) || a.AIKTPM != *b64(m.AKPublic()) {
		t.Error("the record is not the winner's alone")
	}
}

// NT-1B
func TestSameEKUnderTwoIDs(t *testing.T) {
	t.Parallel()
	for _, action := range []string{"warn", "refuse"} {
		t.Run(action, func(t *testing.T) {
			t.Parallel()
			s := start(t, func(c *config.Registrar) { c.DuplicateEK = action })
			m := newMachine(t, "first")
			// A registration that nobody activated proves nothing, and must not keep the owner of the key out.
			if _, err := s.public.Register(t.Context(), "2.6", "squatter", m.request()); err != nil {
				t.Fatal(err)
			}
			s.register(t, m, m.request())
			m.id = "second"
			if action == "refuse" {
				s.refused(t, m.id, m.request(), 403)
			} else {
				s.register(t, m, m.request())
			}
			if log := s.log.String(); !strings.Contains(log, "Endorsement key is registered under another agent id") || !strings.Contains(log, `"other":"first"`) {
				t.Errorf("no alert in %s", log)
			}
		})
	}
}

// NT-49
func TestPendingRegistrationsAreBounded(t *testing.T) {
	t.Parallel()
	s := start(t, func(c *config.Registrar) { c.MaxPending = 5 })
	junk := newMachine(t, "")
	for i := range 20 {
		if _, err := s.public.Register(t.Context(), "2.6", fmt.Sprintf("junk-%02d", i), junk.request()); err != nil {
			t.Fatal(err)
		}
	}
	m := newMachine(t, "genuine")
	s.register(t, m, m.request())
	if n, err := s.db.CountPending(t.Context()); err != nil || n > 5 {
		t.Errorf("%d pending registrations, %v", n, err)
	}
	now := s.now
	s.now = func() time.Time { return now().Add(s.ttl + 1) }
	if _, err := s.dropExpired(t.Context()); err != nil {
		t.Fatal(err)
	}
	if n, err := s.db.CountPending(t.Context()); err != nil || n != 0 {
		t.Errorf("%d pending registrations after their time, %v", n, err)
	}
	s.record(t, m.id)
}

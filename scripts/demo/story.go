package main

import (
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"
)

// tell plays the story, chapter by chapter. The first step that does not do what it says ends it.
func tell(ctx context.Context, s *stage) error {
	chapters := []struct {
		title string
		play  func(context.Context, *stage) error
	}{
		{"A machine boots: IMA measures its files into PCR 10 of its TPM", boot},
		{"Registrar and verifier start in one process; the agent registers", startRoles},
		{"The operator enrols the machine and sends it a payload that only a good machine can open", enrol},
		{"Ten rounds of attestation", attest},
		{"Somebody runs a program that the policy does not know", tamper},
		{"The operator permits the program and takes the machine back", takeBack},
		{"The same machine without a port: it calls in, once at boot", callIn},
		{"The machine leaves", leave},
	}
	for _, c := range chapters {
		s.chapter(c.title)
		if err := c.play(ctx, s); err != nil {
			s.bad("%v", err)
			return fmt.Errorf("%s: %w", strings.ToLower(c.title[:1])+c.title[1:], err)
		}
	}
	return nil
}

func boot(ctx context.Context, s *stage) error {
	list, err := s.tpm.InitList(ctx, s.path("ima.log"))
	if err != nil {
		return err
	}
	s.list = list
	for _, f := range installed {
		if err := s.list.Measure(ctx, f.path, f.digest()); err != nil {
			return err
		}
	}
	s.good("boot_aggregate and %d files measured", len(installed))
	return makePolicy(ctx, s, "policy.json")
}

// makePolicy makes the runtime policy that permits what has been measured so far.
func makePolicy(ctx context.Context, s *stage, name string) error {
	_, err := s.keylime(ctx, "policy", "create", "runtime", "--ima-measurement-list", "ima.log", "--output", name)
	return err
}

func startRoles(ctx context.Context, s *stage) error {
	if err := s.start(ctx, "server", s.ports.verifier, "server"); err != nil {
		return err
	}
	s.good("verifier on port %d, registrar on %d; a CA of their own in %s", s.ports.verifier, s.ports.registrar, "cv_ca")
	if err := s.installCA(); err != nil {
		return err
	}
	hook, err := startWebhook(s.ports.webhook, s.path("server", "cv_ca", "server-cert.crt"), s.path("server", "cv_ca", "server-private.pem"))
	if err != nil {
		return err
	}
	s.hook = hook
	if err := s.start(ctx, "agent", s.ports.agent, "agent"); err != nil {
		return err
	}
	s.good("the TPM proved by credential activation that the attestation key is its own")
	out, err := s.keylime(ctx, "tenant", "reglist")
	if err == nil && !strings.Contains(out, agentID) {
		err = errors.New("the registrar does not list the agent")
	}
	return err
}

func enrol(ctx context.Context, s *stage) error {
	if err := writePayload(s); err != nil {
		return err
	}
	_, err := s.keylime(ctx, "tenant", "add", "-u", agentID, "-t", "127.0.0.1", "-v", "127.0.0.1",
		"--cert", "ca", "--include", "payload", "--runtime-policy", "policy.json",
		"--runtime-policy-name", "web-server")
	if err != nil {
		return err
	}
	s.good("EK certificate verified against the store, identity quote verified, half of the key sent to each of agent and verifier")
	err = s.until(ctx, 15*time.Second, "the payload's script runs", func() error {
		text, err := os.ReadFile(s.path("autorun.ran"))
		if err == nil && string(text) != secret {
			err = fmt.Errorf("the script read %q", text)
		}
		return err
	})
	if err == nil {
		s.good("first good quote: the verifier released its half, the agent decrypted the payload, autorun.sh ran")
	}
	return err
}

func attest(ctx context.Context, s *stage) error {
	const rounds = 10
	shown := 0
	err := s.until(ctx, 40*time.Second, "ten good attestations", func() error {
		st, err := s.status(ctx)
		switch {
		case err != nil:
			return err
		case st.AttestationStatus == "FAIL":
			return fatal{fmt.Errorf("attestation failed: %s", st.event())}
		case st.Count > shown:
			shown = st.Count
			s.note("%2d good attestations", shown)
		}
		if st.Count < rounds {
			return fmt.Errorf("%d so far", st.Count)
		}
		return nil
	})
	if err == nil {
		s.good("the machine runs what it should")
	}
	return err
}

func tamper(ctx context.Context, s *stage) error {
	before, err := s.status(ctx)
	if err != nil {
		return err
	}
	if err := s.list.Measure(ctx, intruder.path, intruder.digest()); err != nil {
		return err
	}
	measured := time.Now()
	s.note("%s is measured", intruder.path)
	err = s.until(ctx, 2*interval+time.Second, "the agent fails", func() error {
		st, err := s.status(ctx)
		if err == nil && st.AttestationStatus != "FAIL" {
			err = fmt.Errorf("attestation is %s", st.AttestationStatus)
		}
		return err
	})
	if err != nil {
		return err
	}
	s.good("noticed after %.1f s (interval %v, %d good attestations before)", time.Since(measured).Seconds(), interval, before.Count)
	out, err := s.keylime(ctx, "tenant", "status", "-u", agentID)
	if err != nil {
		return err
	}
	for _, want := range []string{intruder.path, "ima.validation.ima-ng.not_in_allowlist", "expected", hex.EncodeToString(intruder.digest())} {
		if !strings.Contains(out, want) {
			return fmt.Errorf("status does not show %s", want)
		}
	}
	return revoked(ctx, s)
}

// revoked follows the failure to those who must know.
func revoked(ctx context.Context, s *stage) error {
	select {
	case r := <-s.hook.told:
		if r.Type != "revocation" || r.AgentID != agentID || !strings.Contains(r.Context, intruder.path) {
			return fmt.Errorf("the webhook was told %+v", r)
		}
		s.good("webhook told: %s of %s, %s", r.Type, r.AgentID, r.EventID)
	case <-time.After(10 * time.Second):
		return errors.New("the webhook was not told within 10 s")
	}
	err := s.until(ctx, 10*time.Second, "the revocation action runs", func() error {
		text, err := os.ReadFile(s.path("action.ran"))
		if err == nil && !strings.Contains(string(text), agentID) {
			err = fmt.Errorf("it got %q", text)
		}
		return err
	})
	if err == nil {
		s.good("the agent verified the signed message and ran its revocation action")
	}
	return err
}

func takeBack(ctx context.Context, s *stage) error {
	if err := makePolicy(ctx, s, "corrected.json"); err != nil {
		return err
	}
	if err := s.changed(ctx, "policy.json", "corrected.json"); err != nil {
		return err
	}
	if _, err := s.keylime(ctx, "tenant", "runtime-policy", "update", "--runtime-policy-name", "web-server", "--runtime-policy", "corrected.json"); err != nil {
		return err
	}
	before, err := s.status(ctx)
	if err != nil {
		return err
	}
	if _, err := s.keylime(ctx, "tenant", "reactivate", "-u", agentID); err != nil {
		return err
	}
	err = s.until(ctx, 15*time.Second, "the agent passes again", func() error {
		st, err := s.status(ctx)
		if err == nil && (st.AttestationStatus != "PASS" || st.Count <= before.Count) {
			err = fmt.Errorf("attestation is %s after %d", st.AttestationStatus, st.Count)
		}
		return err
	})
	if err == nil {
		s.good("it passes")
	}
	return err
}

// callIn has the machine attest in the push model: through firewalls and NAT, and to a verdict that a boot script sees.
func callIn(ctx context.Context, s *stage) error {
	s.stop("agent")
	if _, err := s.keylime(ctx, "tenant", "delete", "-u", agentID); err != nil {
		return err
	}
	if _, err := s.keylime(ctx, "tenant", "add", "--push-model", "-u", agentID, "-v", "127.0.0.1", "--runtime-policy-name", "web-server"); err != nil {
		return err
	}
	out, err := s.onMachine(ctx, "agent", "--push", "--once")
	if err == nil && !strings.HasPrefix(out, "pass") {
		err = errors.New("no verdict")
	}
	if err == nil {
		s.good("the machine knows that it passed; exit status 0")
	}
	return err
}

func leave(ctx context.Context, s *stage) error {
	for _, args := range [][]string{
		{"tenant", "delete", "-u", agentID},
		{"tenant", "regdelete", "-u", agentID},
	} {
		if _, err := s.keylime(ctx, args...); err != nil {
			return err
		}
	}
	out, err := s.quiet(ctx, "tenant", "cvlist", "--json")
	if err != nil {
		return err
	}
	if strings.Contains(out, agentID) {
		return errors.New("the verifier still lists the agent")
	}
	s.good("no trace of it at verifier and registrar")
	return nil
}

// agentStatus is what the demo reads of `keylime tenant cvstatus --json`.
type agentStatus struct {
	AttestationStatus string  `json:"attestation_status"`
	Count             int     `json:"attestation_count"`
	LastEvent         *string `json:"last_event_id"`
}

func (a agentStatus) event() string {
	if a.LastEvent == nil {
		return "no event"
	}
	return *a.LastEvent
}

func (s *stage) status(ctx context.Context) (agentStatus, error) {
	out, err := s.quiet(ctx, "tenant", "cvstatus", "-u", agentID, "--json")
	if err != nil {
		return agentStatus{}, err
	}
	var answer struct{ Verifier agentStatus }
	if err := json.Unmarshal([]byte(out), &answer); err != nil {
		return agentStatus{}, fmt.Errorf("status is no JSON: %w", err)
	}
	return answer.Verifier, nil
}

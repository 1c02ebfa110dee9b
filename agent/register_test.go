package agent

import (
	"context"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/rs/zerolog"

	"keylime/internal/api"
	"keylime/internal/fleet"
	"keylime/tpm/device"
)

// newRegistration registers a software TPM with a registrar.
func newRegistration(t *testing.T, registrar *testRegistrar) registration {
	t.Helper()
	soft, err := fleet.NewSoftTPM(rand.Reader, "ecc256")
	if err != nil {
		t.Fatal(err)
	}
	ek, ak := base64.StdEncoding.EncodeToString(soft.EKPublic()), base64.StdEncoding.EncodeToString(soft.AKPublic())
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	return registration{
		client: api.NewRegistrar(registrar.server.URL, client), agentID: exampleID, versions: api.AgentVersions,
		request:  api.RegisterRequest{EKTPM: &ek, AIKTPM: &ak},
		activate: func(_ context.Context, blob []byte) ([]byte, error) { return soft.Activate(blob) },
		retry:    backoff{first: time.Millisecond, longest: 4 * time.Millisecond, retries: 5},
		log:      zerolog.Nop(),
	}
}

const (
	askVersion = "GET /version"
	postAgent  = "POST /v2.6/agents/" + exampleID
	putAgent   = "PUT /v2.6/agents/" + exampleID
)

func TestRegistrationComesBackAfterWhatPasses(t *testing.T) {
	t.Parallel()
	for name, status := range map[string]int{"internal error": 500, "unavailable": 503, "time-out": 408, "too many": 429} {
		registrar := newTestRegistrar(t)
		registrar.answer(status, "", "", "")
		registrar.answer(200, "", "", `{"code":200,"status":"Success","results":{"current_version":"2.6","supported_versions":["2.6"]}}`)
		registrar.answer(status, "", "", "")
		if err := newRegistration(t, registrar).run(t.Context()); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		want := []string{askVersion, askVersion, postAgent, askVersion, postAgent, putAgent}
		if diff := cmp.Diff(want, registrar.paths()); diff != "" {
			t.Errorf("%s: %s", name, diff)
		}
	}
}

func TestRegistrationGivesUp(t *testing.T) {
	t.Parallel()
	const version = `{"code":200,"status":"Success","results":{"current_version":"2.6","supported_versions":["2.6"]}}`
	cases := map[string]struct {
		prepare  func(*testRegistrar, *registration)
		want     string
		requests int
	}{
		"refused for its identity": {func(r *testRegistrar, _ *registration) {
			r.answer(200, "", "", version)
			r.answer(403, "", "", `{"code":403,"status":"Agent re-registration with different TPM identity is forbidden","results":{}}`)
		}, "keylime tenant regdelete", 2},
		"invalid data": {func(r *testRegistrar, _ *registration) {
			r.answer(200, "", "", version)
			r.answer(400, "", "", `{"code":400,"status":"Could not register agent with invalid data","results":{}}`)
		}, "Could not register agent with invalid data", 2},
		"no common version": {func(r *testRegistrar, _ *registration) {
			r.answer(200, "", "", `{"code":200,"status":"Success","results":{"current_version":"3.0","supported_versions":["3.0"]}}`)
		}, "no API version in common", 1},
		"activation refused": {func(r *testRegistrar, reg *registration) {
			reg.activate = func(context.Context, []byte) ([]byte, error) { return []byte("another secret"), nil }
		}, "activate agent " + exampleID, 3},
		"challenge for another TPM": {func(r *testRegistrar, reg *registration) {
			reg.activate = func(context.Context, []byte) ([]byte, error) { return nil, errors.New("integrity check failed") }
		}, "cannot be opened: integrity check failed", 2},
		"challenge no base64": {func(r *testRegistrar, _ *registration) {
			r.answer(200, "", "", version)
			r.answer(200, "", "", `{"code":200,"status":"Success","results":{"blob":"!"}}`)
		}, "cannot be opened", 2},
		"always down": {func(r *testRegistrar, _ *registration) {
			for range 10 {
				r.answer(503, "", "", "")
			}
		}, "503", 6},
		"nobody there": {func(r *testRegistrar, reg *registration) {
			reg.client = api.NewRegistrar("http://127.0.0.1:1", &http.Client{Transport: &http.Transport{DisableKeepAlives: true}})
		}, "connection refused", 0},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			registrar := newTestRegistrar(t)
			reg := newRegistration(t, registrar)
			c.prepare(registrar, &reg)
			if err := reg.run(t.Context()); err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %v, want an error with %q", err, c.want)
			}
			if got := registrar.paths(); len(got) != c.requests {
				t.Errorf("sent %v, want %d requests", got, c.requests)
			}
			if registrar.activations() != 0 {
				t.Error("activated")
			}
		})
	}
}

// A registrar without /version is tried with each version, newest first.
func TestRegistrationWithoutVersionResource(t *testing.T) {
	t.Parallel()
	registrar := newTestRegistrar(t)
	for range 3 {
		registrar.answer(404, "", "", "")
	}
	if err := newRegistration(t, registrar).run(t.Context()); err != nil {
		t.Fatal(err)
	}
	want := []string{askVersion, postAgent, "POST /v2.5/agents/" + exampleID, "POST /v2.4/agents/" + exampleID, "PUT /v2.4/agents/" + exampleID}
	if diff := cmp.Diff(want, registrar.paths()); diff != "" {
		t.Error(diff)
	}

	refusing := newTestRegistrar(t)
	refusing.answer(404, "", "", "")
	refusing.answer(403, "", "", "")
	if err := newRegistration(t, refusing).run(t.Context()); !api.IsStatus(err, 403) || len(refusing.paths()) != 2 {
		t.Errorf("got %v after %v", err, refusing.paths())
	}
}

func TestRegistrationEndsWithTheAgent(t *testing.T) {
	t.Parallel()
	registrar := newTestRegistrar(t)
	registrar.answer(503, "Retry-After", "3600", "")
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- newRegistration(t, registrar).run(ctx) }()
	waitFor(t, "the first attempt", func() bool { return len(registrar.paths()) == 1 })
	cancel()
	if err := <-done; !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
}

func TestRetryAfterIsReadInBothForms(t *testing.T) {
	t.Parallel()
	now := time.Date(2026, 11, 25, 12, 0, 0, 0, time.UTC)
	for header, want := range map[string]time.Duration{
		"":                              0,
		"0":                             0,
		"120":                           2 * time.Minute,
		" 7 ":                           7 * time.Second,
		"999999999":                     maxRetryAfter,
		"99999999999999999999":          0,
		"-5":                            0,
		"soon":                          0,
		"Wed, 25 Nov 2026 12:01:00 GMT": time.Minute,
		"Wed, 25 Nov 2026 11:00:00 GMT": 0,
		"Wed, 25 Nov 2099 11:00:00 GMT": maxRetryAfter,
	} {
		err := fmt.Errorf("register: %w", &api.Error{Status: 503, RetryAfter: header})
		if got := retryAfter(err, now); got != want {
			t.Errorf("%q: %v, want %v", header, got, want)
		}
	}
	if got := retryAfter(errors.New("connection refused"), now); got != 0 {
		t.Errorf("no answer: %v", got)
	}
}

func TestBackoffDoublesWithinItsBounds(t *testing.T) {
	t.Parallel()
	b := backoff{first: 10 * time.Second, longest: 300 * time.Second}
	for n, most := range []time.Duration{10, 20, 40, 80, 160, 300, 300, 300} {
		most *= time.Second
		for range 50 {
			if got := b.wait(n); got < most/2 || got > most {
				t.Errorf("retry %d waits %v, want %v to %v", n, got, most/2, most)
			}
		}
	}
	if got := b.wait(1 << 20); got > b.longest {
		t.Errorf("late retry waits %v", got)
	}
	if got := (backoff{}).wait(3); got != 0 {
		t.Errorf("no delay configured, but it waits %v", got)
	}
}

func TestCertificatesAreSentLeafFirst(t *testing.T) {
	t.Parallel()
	if got := certificatesPEM(&device.EK{Chain: [][]byte{{1}}}); got != "" {
		t.Errorf("without an EK certificate: %q", got)
	}
	got := certificatesPEM(&device.EK{Cert: []byte{1}, Chain: [][]byte{{2}, {3}}})
	want := "-----BEGIN CERTIFICATE-----\nAQ==\n-----END CERTIFICATE-----\n-----BEGIN CERTIFICATE-----\nAg==\n-----END CERTIFICATE-----\n-----BEGIN CERTIFICATE-----\nAw==\n-----END CERTIFICATE-----\n"
	if got != want {
		t.Errorf("got %q", got)
	}
}

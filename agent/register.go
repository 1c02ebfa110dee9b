package agent

import (
	"context"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/rs/zerolog"

	"keylime/internal/api"
	"keylime/tpm/device"
)

// registration makes the agent known to the registrar: it sends the TPM's keys and answers the challenge that only
// this TPM can open.
type registration struct {
	client   *api.RegistrarClient
	agentID  string
	versions []string // that this agent speaks, oldest first
	request  api.RegisterRequest
	activate func(ctx context.Context, blob []byte) (secret []byte, err error)
	retry    backoff
	log      zerolog.Logger
}

// backoff says how long to wait between attempts: twice as long each time, with jitter, so that machines which start
// together do not come back together.
type backoff struct {
	first, longest time.Duration
	retries        int
}

// wait is the pause before retry n, the first being 0.
func (b backoff) wait(n int) time.Duration {
	wait := b.longest
	if n < 32 && b.first<<n < b.longest && b.first<<n>>n == b.first {
		wait = b.first << n
	}
	if wait <= 1 {
		return 0
	}
	return wait/2 + rand.N(wait/2)
}

// run registers and activates, and tries again what may pass. It returns when the agent is active, when the registrar
// refused it, when the retries are used up, or when ctx ends.
func (r registration) run(ctx context.Context) error {
	for n := 0; ; n++ {
		err := r.attempt(ctx)
		switch {
		case err == nil:
			return nil
		case ctx.Err() != nil:
			return context.Cause(ctx)
		case !passing(err), n >= r.retry.retries:
			return err
		}
		wait := max(r.retry.wait(n), retryAfter(err, time.Now()))
		r.log.Warn().Err(err).Dur("wait_ms", wait).Msg("registration failed and is tried again")
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-time.After(wait):
		}
	}
}

// errChallenge says that this TPM did not open the registrar's challenge.
var errChallenge = errors.New("the registrar's challenge cannot be opened")

func (r registration) attempt(ctx context.Context) error {
	r.log.Info().Msg("Requesting registrar API version")
	version, results, err := r.register(ctx)
	if err != nil {
		return explainRefusal(fmt.Errorf("register agent %s: %w", r.agentID, err))
	}
	r.log.Info().Str("audit", "registration").Msg("SUCCESS: Agent " + r.agentID + " registered")
	blob, err := decodeBase64(results.Blob)
	if err != nil {
		return fmt.Errorf("register agent %s: %w: %w", r.agentID, errChallenge, err)
	}
	secret, err := r.activate(ctx, blob)
	if err != nil {
		return fmt.Errorf("activate agent %s: %w: %w", r.agentID, errChallenge, err)
	}
	// The registrar keys its HMAC with the challenge's base64 text, not with the challenge.
	key := base64.StdEncoding.EncodeToString(secret)
	tag := hex.EncodeToString(authTag([]byte(key), r.agentID))
	if err := r.client.Activate(ctx, version, r.agentID, tag); err != nil {
		return fmt.Errorf("activate agent %s: %w", r.agentID, err)
	}
	r.log.Info().Str("audit", "registration").Msg("SUCCESS: Agent " + r.agentID + " activated")
	return nil
}

// register sends the keys in the newest common version. A registrar that cannot say which it speaks is tried with each
// of ours, newest first, until it accepts one or refuses the agent.
func (r registration) register(ctx context.Context) (version string, results api.RegisterResults, err error) {
	remote, err := r.client.Version(ctx)
	if err == nil {
		if version, err = r.choose(remote); err != nil {
			return "", results, err
		}
		results, err = r.client.Register(ctx, version, r.agentID, r.request)
		return version, results, err
	}
	if passing(err) {
		return "", results, fmt.Errorf("ask for the registrar's API versions: %w", err)
	}
	for _, version := range slices.Backward(r.versions) {
		results, err = r.client.Register(ctx, version, r.agentID, r.request)
		if err == nil || passing(err) || api.IsStatus(err, http.StatusForbidden) {
			return version, results, err
		}
	}
	return "", results, err
}

func (r registration) choose(remote api.Version) (string, error) {
	if slices.Contains(r.versions, remote.Current) {
		return remote.Current, nil
	}
	return api.Negotiate(r.versions, remote.Supported)
}

// passing reports whether a later attempt may succeed where this one failed: nobody answered, or the answer says so.
func passing(err error) bool {
	var answer *api.Error
	if errors.As(err, &answer) {
		return answer.Status >= 500 || answer.Status == http.StatusRequestTimeout || answer.Status == http.StatusTooManyRequests
	}
	if errors.Is(err, device.ErrBusy) {
		return true
	}
	return !errors.Is(err, api.ErrMalformed) && !errors.Is(err, api.ErrNoCommonVersion) && !errors.Is(err, errChallenge)
}

// explainRefusal adds what to do about a conflict of identities.
func explainRefusal(err error) error {
	if !api.IsStatus(err, http.StatusForbidden) {
		return err
	}
	return fmt.Errorf("%w: this id is registered with another TPM or attestation key; if this machine is the right one, delete the old registration (keylime tenant regdelete) and start again", err)
}

// retryAfter is the pause that the registrar asked for, in seconds or until a date (RFC 9110, 10.2.3), within
// maxRetryAfter; 0 when it did not.
func retryAfter(err error, now time.Time) time.Duration {
	var answer *api.Error
	if !errors.As(err, &answer) || answer.RetryAfter == "" {
		return 0
	}
	text := strings.TrimSpace(answer.RetryAfter)
	if seconds, err := strconv.ParseUint(text, 10, 31); err == nil {
		return min(time.Duration(seconds)*time.Second, maxRetryAfter)
	}
	date, dateErr := http.ParseTime(text)
	if dateErr != nil {
		return 0
	}
	return min(max(date.Sub(now), 0), maxRetryAfter)
}

// registerRequest is the body of the registration.
func registerRequest(ek *device.EK, ak *device.AK, ip string, port int, mtlsCert string) (api.RegisterRequest, error) {
	portJSON, err := json.Marshal(port)
	if err != nil {
		return api.RegisterRequest{}, err
	}
	ekTPM := base64.StdEncoding.EncodeToString(ek.Public.Bytes())
	akTPM := base64.StdEncoding.EncodeToString(ak.Public.Bytes())
	ekCert := certificatesPEM(ek)
	return api.RegisterRequest{EKTPM: &ekTPM, AIKTPM: &akTPM, EKCert: &ekCert, IP: &ip, Port: portJSON, MTLSCert: &mtlsCert}, nil
}

// certificatesPEM is the EK's certificate and after it those of its issuers in NV; "" without an EK certificate.
func certificatesPEM(ek *device.EK) string {
	if ek.Cert == nil {
		return ""
	}
	var text strings.Builder
	for _, der := range append([][]byte{ek.Cert}, ek.Chain...) {
		text.Write(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))
	}
	return text.String()
}

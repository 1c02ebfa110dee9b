package verifier

import (
	"crypto/rsa"
	"crypto/sha1"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"time"

	"keylime/internal/api"
	"keylime/internal/attest"
	"keylime/internal/notify"
	"keylime/store"
	"keylime/tpm"
)

// This file is the only translator between the wire (api) and what the verifier keeps and decides by.

// evidenceProblem is an answer that cannot be put before the core.
type evidenceProblem struct{ eventID, text string }

// evidenceFromAPI decodes an agent's answer. cachedKey stands in when the answer leaves the transport key out.
func evidenceFromAPI(r api.QuoteResults, cachedKey string) (attest.Evidence, *evidenceProblem) {
	if r.Quote == "" {
		return attest.Evidence{}, &evidenceProblem{"qoute_validation.invalid_data", "the answer holds no quote"}
	}
	quote, err := tpm.ParseQuote(r.Quote)
	if err != nil {
		return attest.Evidence{}, &evidenceProblem{"qoute_validation.quote_validation", err.Error()}
	}
	e := attest.Evidence{
		Quote:   quote,
		HashAlg: r.HashAlg, EncAlg: r.EncAlg, SignAlg: r.SignAlg,
		PubKey: cachedKey,
	}
	if r.PubKey != nil {
		e.PubKey = *r.PubKey
	}
	if len(e.PubKey) > maxTransportKey {
		return attest.Evidence{}, &evidenceProblem{"qoute_validation.invalid_data", fmt.Sprintf("transport key of %d bytes: at most %d are read", len(e.PubKey), maxTransportKey)}
	}
	if r.IMA != nil {
		e.IMA, e.HasIMA = []byte(*r.IMA), true
	}
	if r.IMAEntry != nil {
		e.IMAEntry = *r.IMAEntry
	}
	if r.BootLog != nil {
		log, problem := decodeBootLog(*r.BootLog)
		if problem != nil {
			return attest.Evidence{}, problem
		}
		e.BootLog = log
	}
	return e, nil
}

func decodeBootLog(text string) ([]byte, *evidenceProblem) {
	log, err := base64.StdEncoding.Strict().DecodeString(text)
	if err != nil {
		return nil, &evidenceProblem{attest.EventBootBase64, "Measured boot log could not be decoded: " + err.Error()}
	}
	return log, nil
}

// identityOf is what the tenant enrolled about an agent's TPM.
func identityOf(s store.AgentSpec, ak *tpm.Public) attest.Identity {
	return attest.Identity{AK: ak, AcceptHash: s.AcceptHash, AcceptEnc: s.AcceptEnc, AcceptSign: s.AcceptSign}
}

// encryptV encrypts V to an agent's transport key: RSAES-OAEP with SHA-1 and MGF1-SHA-1, which is what the pull
// protocol prescribes (SHA-1's weakness does not matter in OAEP), base64.
func encryptV(rand io.Reader, pubKeyPEM string, v []byte) (string, error) {
	block, rest := pem.Decode([]byte(pubKeyPEM))
	if block == nil || len(rest) > 0 {
		return "", errors.New("transport key of the agent: not one PEM block")
	}
	parsed, err := x509.ParsePKIXPublicKey(block.Bytes)
	if err != nil {
		return "", fmt.Errorf("transport key of the agent: %w", err)
	}
	key, ok := parsed.(*rsa.PublicKey)
	if !ok || key.Size() < 256 || key.Size() > 1024 {
		return "", errors.New("transport key of the agent: want RSA of 2048 to 8192 bits")
	}
	encrypted, err := rsa.EncryptOAEP(sha1.New(), rand, key, v, nil)
	if err != nil {
		return "", fmt.Errorf("encrypt V: %w", err)
	}
	return base64.StdEncoding.EncodeToString(encrypted), nil
}

// revocation is the message about an agent's failure. The caller adds what makes it unique.
func revocation(a store.Agent, n next, verifierID string, now time.Time) api.Revocation {
	r := api.Revocation{
		Type:      n.message,
		AgentID:   a.ID,
		TPMPolicy: a.Spec.TPMPolicy,
		Metadata:  a.Spec.Metadata,
		EventTime: notify.EventTime(now.Local()),
		Expires:   now.Add(notify.Lifetime).Unix(),
		Audience:  "agents of verifier " + verifierID,
	}
	r.IP, r.Port = addressToAPI(a.Spec)
	if f := n.failure; f != nil {
		r.EventID, r.Severity, r.Context = f.EventID, f.Severity.Label, f.Context
	}
	return r
}

// statusView is what a status needs beside the agent's record.
type statusView struct {
	generator int // of the runtime policy
	window    *api.PolicyWindow
	appraises []string // what evidence is judged by, beside the quote itself
	interval  time.Duration
	hideV     bool // the payload's key share is for those who may change something
}

// agentToAPI is an agent as GET /agents/:id shows it.
func agentToAPI(a store.Agent, view statusView) api.VerifierAgent {
	st := a.Status
	seconds := int64(view.interval / time.Second)
	out := api.VerifierAgent{
		OperationalState:    int(st.Operational),
		TPMPolicy:           a.Spec.TPMPolicy,
		Metadata:            a.Spec.Metadata,
		AcceptHash:          a.Spec.AcceptHash,
		AcceptEnc:           a.Spec.AcceptEnc,
		AcceptSign:          a.Spec.AcceptSign,
		HashAlg:             st.HashAlg,
		EncAlg:              st.EncAlg,
		SignAlg:             st.SignAlg,
		VerifierID:          a.Spec.VerifierID,
		VerifierIP:          a.Spec.VerifierIP,
		VerifierPort:        a.Spec.VerifierPort,
		AttestationCount:    st.AttestationCount,
		LastReceivedQuote:   unix(st.LastQuote),
		LastSuccess:         unix(st.LastSuccess),
		AttestationStatus:   statusOf(a),
		AttestationPeriod:   fmt.Sprintf("%ds", seconds),
		MaxAttestationDelay: fmt.Sprintf("%ds", 5*seconds),
		RuntimePolicyName:   a.Spec.RuntimePolicy,
		RuntimePolicyDigest: st.RuntimePolicyDigest,
		RuntimePolicyWindow: view.window,
		TPMPolicyName:       a.Spec.PCRPolicy,
		TPMPolicyDigest:     st.PCRPolicyDigest,
		Appraises:           view.appraises,
		AttestationMode:     api.ModePull,
	}
	out.IP, out.Port = addressToAPI(a.Spec)
	if a.Spec.Push {
		out.AttestationMode = api.ModePush
	}
	if a.Spec.V != nil && !view.hideV {
		v := base64.StdEncoding.EncodeToString(a.Spec.V)
		out.V = &v
	}
	if a.Spec.MeasuredBootPolicy != "" {
		out.HasMBRefstate = 1
	}
	if view.generator > 1 { // the wire's rule: 0 is unknown, 1 the empty policy
		out.HasRuntimePolicy = 1
	}
	if st.SeverityRank >= 0 {
		rank := st.SeverityRank
		out.SeverityLevel = &rank
	}
	if st.LastEventID != "" {
		id := st.LastEventID
		out.LastEventID = &id
		if json.Valid([]byte(st.LastFailure)) {
			out.LastEventContext = json.RawMessage(st.LastFailure)
		}
	}
	return out
}

// addressToAPI is where an agent is asked; an agent that calls in has no address.
func addressToAPI(s store.AgentSpec) (ip *string, port *int) {
	if s.Push {
		return nil, nil
	}
	return &s.IP, &s.Port
}

// statusOf sums up how an agent fares as the wire does.
func statusOf(a store.Agent) string {
	if a.Spec.Push {
		return calledStatus(a.Status)
	}
	return attestationStatus(a.Status.Operational)
}

// attestationStatus sums up a state as the wire does.
func attestationStatus(s store.OperationalState) string {
	switch s {
	case store.StateGetQuote, store.StateGetQuoteRetry, store.StateProvideV, store.StateProvideVRetry:
		return "PASS"
	case store.StateFailed, store.StateInvalidQuote, store.StateTenantFailed:
		return "FAIL"
	}
	return "PENDING"
}

func unix(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return t.Unix()
}

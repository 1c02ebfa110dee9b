package verifier

import (
	"crypto/tls"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"keylime/ima"
	"keylime/internal/api"
	"keylime/internal/pki"
	"keylime/internal/policy"
	"keylime/internal/strictjson"
	"keylime/store"
	"keylime/tpm"
)

// An enrolment is checked in the order in which peers of the pull protocol expect the answers: the shape of the
// body, TLS, what exists already, and then the content.

// enrolKeys are the keys that an enrolment must have, null or not, in the order in which a missing one is reported.
var enrolKeys = []string{
	"tpm_policy", "metadata", "ima_sign_verification_keys", "revocation_key", "accept_tpm_hash_algs",
	"accept_tpm_encryption_algs", "accept_tpm_signing_algs", "ak_tpm", "runtime_policy", "mb_policy_name", "mb_policy",
}

// notNull are those of them that null does not do for.
var notNull = []string{
	"tpm_policy", "accept_tpm_hash_algs", "accept_tpm_encryption_algs", "accept_tpm_signing_algs", "ak_tpm", "runtime_policy",
}

// parseEnrolment decodes an enrolment that must have the given keys. Unknown ones are left to newer tenants.
func parseEnrolment(body []byte, keys []string) (api.EnrolRequest, error) {
	var req api.EnrolRequest
	null := map[string]bool{} // of the keys present
	r := strictjson.NewReader(string(body), maxJSONDepth)
	err := r.Object(func(name string) error {
		null[name] = r.Kind() == strictjson.Null
		return r.Skip()
	})
	if err != nil {
		return req, err
	}
	for _, k := range keys {
		if _, ok := null[k]; !ok {
			return req, missingKey(k)
		}
	}
	for _, k := range notNull {
		if null[k] {
			return req, missingKey(k)
		}
	}
	return req, strictjson.Unmarshal(body, maxJSONDepth, &req)
}

// modeOf says who starts the attestations of an agent that is to be enrolled. Of a tenant that does not say it: an agent
// calls in when it has no share of a key to be delivered and no certificate to pin, unless agents may do without one.
func (v *Verifier) modeOf(req api.EnrolRequest) (push bool, err error) {
	asked, cert := text(req.AttestationMode, ""), text(req.MTLSCert, "")
	switch verifier := v.mode; {
	case asked != "" && asked != api.ModePull && asked != api.ModePush:
		return false, fmt.Errorf("attestation_mode %q is neither %s nor %s", clip(asked), api.ModePull, api.ModePush)
	case verifier == modeBoth && asked == "":
		return v.cfg.EnableAgentMTLS && req.V == nil && (cert == "" || cert == mtlsDisabled), nil
	case verifier == modeBoth:
		return asked == api.ModePush, nil
	case asked != "" && asked != verifier:
		return false, fmt.Errorf("attestation_mode is %s, but this verifier has mode = %s: %s", asked, verifier, wrongModeHint[verifier])
	}
	return v.mode == api.ModePush, nil
}

// modeBoth is the mode of a verifier that leaves the choice to each enrolment.
const modeBoth = "both"

// wrongModeHint says what to do at a verifier of that mode.
var wrongModeHint = map[string]string{
	api.ModePull: "add the agent without push, or set mode = both and restart the verifier",
	api.ModePush: "add the agent as a push agent, or set mode = both and restart the verifier",
}

// missingKey is reported as the wire has it: the key in quotes.
type missingKey string

func (k missingKey) Error() string { return "'" + string(k) + "'" }

// specFromAPI checks the content of a request and turns it into the agent's record. Policies are not its concern.
func specFromAPI(id string, req api.EnrolRequest, d enrolDefaults) (store.Agent, error) {
	spec := store.AgentSpec{
		VerifierID:    d.verifierID,
		VerifierIP:    text(req.VerifierIP, d.verifierIP),
		IP:            text(req.AgentIP, ""),
		TPMPolicy:     text(req.TPMPolicy, ""),
		Metadata:      text(req.Metadata, ""),
		IMAKeyring:    text(req.IMAVerificationKey, ""),
		RevocationKey: text(req.RevocationKey, ""),
		AcceptHash:    req.AcceptHash,
		AcceptEnc:     req.AcceptEnc,
		AcceptSign:    req.AcceptSign,
		MTLSCert:      text(req.MTLSCert, ""),
		Enrolled:      d.now,
		Push:          d.push,
	}
	if spec.Push {
		spec.IP = ""
	}
	var err error
	for _, check := range []func() error{
		func() error { return checkTexts(spec) },
		func() (err error) { spec.V, err = parseV(req.V); return err },
		func() error { return readAddress(&spec, req, d.guard) },
		func() (err error) {
			spec.VerifierPort, err = parsePort("verifier_port", req.VerifierPort, d.verifierPort)
			return err
		},
		func() error { _, err := policy.ParsePCR(spec.TPMPolicy); return err },
		func() (err error) { spec.AKTPM, err = parseAK(*req.AKTPM); return err },
		func() error { return checkAlgorithms(spec) },
		func() error { return checkCertificate(spec.MTLSCert) },
		func() error { return checkRevocationKey(spec.RevocationKey) },
		func() error { return checkKeyring(spec.IMAKeyring) },
	} {
		if err = check(); err != nil {
			return store.Agent{}, err
		}
	}
	if spec.Push { // nobody misses it before its first attestation
		return store.Agent{
			ID: id, Spec: spec,
			Status: store.AgentStatus{Operational: store.StateGetQuote, APIVersion: api.PushVersion, SeverityRank: -1},
		}, nil
	}
	return store.Agent{
		ID:   id,
		Spec: spec,
		Status: store.AgentStatus{
			Operational:  store.StateStart,
			APIVersion:   agentVersion(req.SupportedVersion),
			ProvideV:     true,
			SeverityRank: -1,
		},
		Due: d.now,
	}, nil
}

// readAddress reads where the agent is asked. One that calls in has no address, whatever the request says.
func readAddress(spec *store.AgentSpec, req api.EnrolRequest, g guard) (err error) {
	if spec.Push {
		return nil
	}
	if spec.Port, err = parsePort("cloudagent_port", req.AgentPort, 0); err != nil {
		return err
	}
	return g.checkHost(spec.IP, spec.Port)
}

// enrolDefaults are the verifier's own facts that an enrolment needs.
type enrolDefaults struct {
	verifierID, verifierIP string
	verifierPort           int
	guard                  guard
	push                   bool // the agent calls in
	now                    time.Time
}

// text is the string that a key holds; null and a missing key give def.
func text(s *string, def string) string {
	if s == nil {
		return def
	}
	return *s
}

// checkTexts bounds what is kept and repeated in revocation messages.
func checkTexts(s store.AgentSpec) error {
	for _, f := range []struct {
		name, value string
		max         int
	}{
		{"tpm_policy", s.TPMPolicy, maxOpaqueText},
		{"metadata", s.Metadata, maxOpaqueText},
		{"ima_sign_verification_keys", s.IMAKeyring, maxKeyring},
		{"revocation_key", s.RevocationKey, maxOpaqueText},
		{"mtls_cert", s.MTLSCert, maxOpaqueText},
		{"verifier_ip", s.VerifierIP, maxHostName},
		{"cloudagent_ip", s.IP, maxHostName},
	} {
		if len(f.value) > f.max {
			return fmt.Errorf("%s has %d bytes, at most %d are kept", f.name, len(f.value), f.max)
		}
		if !utf8.ValidString(f.value) || strings.ContainsRune(f.value, 0) {
			return fmt.Errorf("%s is not text", f.name)
		}
	}
	return nil
}

// parseV reads the verifier's half of the payload key; agents combine halves of 16 or 32 bytes.
func parseV(s *string) ([]byte, error) {
	if s == nil || *s == "" {
		return nil, nil
	}
	v, err := base64.StdEncoding.Strict().DecodeString(*s)
	if err != nil || len(v) != 32 && len(v) != 16 {
		return nil, errors.New("v is not base64 of 32 (or 16) bytes") // never repeated: it is half a key
	}
	return v, nil
}

// parsePort reads a number or a numeric string. Without one it is def, and an error when def is 0.
func parsePort(name string, raw json.RawMessage, def int) (int, error) {
	if s := string(raw); s == "" || s == "null" {
		if def == 0 {
			return 0, fmt.Errorf("%s is missing; the verifier has to know where to ask", name)
		}
		return def, nil
	}
	port, ok := api.ParsePort(raw)
	if !ok {
		return 0, fmt.Errorf("%s %s is not a port, 1 to 65535", name, clip(string(raw)))
	}
	return port, nil
}

// checkHost checks where the tenant says that the agent is. Names are checked again when they have been resolved.
func (g guard) checkHost(host string, port int) error {
	if host == "" {
		return errors.New("cloudagent_ip is missing; the verifier has to know where to ask")
	}
	if ip, err := netip.ParseAddr(host); err == nil {
		if err := g.check(netip.AddrPortFrom(ip, uint16(port))); err != nil {
			return fmt.Errorf("cloudagent_ip: %w", err)
		}
		return nil
	}
	for label := range strings.SplitSeq(strings.TrimSuffix(host, "."), ".") {
		if !validLabel(label) {
			return fmt.Errorf("cloudagent_ip %q is neither an address nor a host name", host)
		}
	}
	return nil
}

// validLabel is one part of a host name (RFC 1123, and the underscore that people use).
func validLabel(s string) bool {
	if s == "" || len(s) > 63 || s[0] == '-' || s[len(s)-1] == '-' {
		return false
	}
	for _, c := range s {
		if !(c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || c == '-' || c == '_') {
			return false
		}
	}
	return true
}

// parseAK reads the attestation key that the tenant checked, and holds it to being one.
func parseAK(s string) ([]byte, error) {
	raw, err := base64.StdEncoding.Strict().DecodeString(s)
	if err != nil {
		return nil, fmt.Errorf("ak_tpm: %w", err)
	}
	ak, err := tpm.ParsePublic(raw)
	if err != nil {
		return nil, fmt.Errorf("ak_tpm: %w", err)
	}
	if err := ak.CheckAK(); err != nil {
		return nil, fmt.Errorf("ak_tpm: %w", err)
	}
	return raw, nil
}

// checkAlgorithms bounds the lists of accepted algorithms. An empty one would accept nothing.
func checkAlgorithms(s store.AgentSpec) error {
	for _, l := range []struct {
		name string
		list []string
	}{
		{"accept_tpm_hash_algs", s.AcceptHash},
		{"accept_tpm_encryption_algs", s.AcceptEnc},
		{"accept_tpm_signing_algs", s.AcceptSign},
	} {
		if len(l.list) == 0 || len(l.list) > maxAlgorithms {
			return fmt.Errorf("%s lists %d algorithms, want 1 to %d", l.name, len(l.list), maxAlgorithms)
		}
		for _, a := range l.list {
			if a == "" || len(a) > maxAlgorithmName {
				return fmt.Errorf("%s: %q is not the name of an algorithm", l.name, a)
			}
		}
	}
	return nil
}

// checkCertificate holds a certificate to being one that connections can be pinned to.
func checkCertificate(pem string) error {
	if pem == "" || pem == mtlsDisabled {
		return nil
	}
	if _, err := pki.PinnedClient(&tls.Config{}, pem); err != nil {
		return fmt.Errorf("mtls_cert: %w", err)
	}
	return nil
}

func checkRevocationKey(pem string) error {
	if pem == "" {
		return nil
	}
	if _, err := rsaKey(pem); err != nil {
		return fmt.Errorf("revocation_key: %w", err)
	}
	return nil
}

// checkKeyring holds the agent's own keys for file signatures to being a keyring. Keys that cannot be used vouch for
// nothing, but a keyring of such keys only is a mistake.
func checkKeyring(text string) error {
	keys, unusable, err := ima.ParseKeyring(text)
	if err == nil && len(unusable) > 0 && len(keys.Keys()) == 0 {
		err = unusable[0]
	}
	if err != nil {
		return fmt.Errorf("ima_sign_verification_keys: %w", err)
	}
	return nil
}

// agentVersion is the API version to speak with an agent first: what the tenant found, if we speak it.
func agentVersion(s *string) string {
	if s != nil && slices.Contains(api.AgentVersions, *s) {
		return *s
	}
	return api.Current
}

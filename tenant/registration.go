package tenant

import (
	"context"
	"encoding/base64"
	"fmt"

	"keylime/internal/api"
	"keylime/tpm"
)

// registration is what the registrar holds of an agent, checked for form. A command looks it up once: the AK that was
// checked against quote and EK certificate is the very one that the verifier is told.
type registration struct {
	agent   string
	record  api.RegistrarAgent
	ek, ak  *tpm.Public
	ekCert  []byte   // DER; nil when the TPM has none
	ekChain [][]byte // what the agent sent after it, DER
}

// servesNoTLS reports whether the agent registered that its listener has no certificate. Agents that call in do, for
// they have no listener.
func (r *registration) servesNoTLS() bool {
	return r.record.MTLSCert != nil && *r.record.MTLSCert == withoutTLS
}

// lookup asks the registrar for an agent.
func (t *tenant) lookup(ctx context.Context, agent string) (api.RegistrarAgent, error) {
	v, err := t.registrarVersion(ctx)
	if err != nil {
		return api.RegistrarAgent{}, err
	}
	record, err := t.registrar.client.Agent(ctx, v, agent)
	if notFound(err) {
		return record, failure(exitNotFound, "start the agent; its log says whether it could register, and `keylime tenant reglist` who has",
			"agent %s does not exist on registrar %s port %d", agent, t.registrar.host, t.registrar.port)
	}
	return record, asking(t.registrar.peer, "look up agent "+agent, err)
}

// registered looks an agent up and parses its keys.
func (t *tenant) registered(ctx context.Context, agent string) (*registration, error) {
	record, err := t.lookup(ctx, agent)
	if err != nil {
		return nil, err
	}
	r, err := parseRegistration(agent, record)
	if err != nil {
		return nil, failure(exitUntrusted, "remove it with `keylime tenant regdelete` and register the agent anew", "registration of agent %s: %w", agent, err)
	}
	return r, nil
}

func parseRegistration(agent string, record api.RegistrarAgent) (*registration, error) {
	r := &registration{agent: agent, record: record}
	var err error
	if r.ek, err = parseKey(record.EKTPM); err != nil {
		return nil, fmt.Errorf("ek_tpm: %w", err)
	}
	if err := r.ek.CheckEK(); err != nil {
		return nil, fmt.Errorf("ek_tpm: %w", err)
	}
	if r.ak, err = parseKey(record.AIKTPM); err != nil {
		return nil, fmt.Errorf("aik_tpm: %w", err)
	}
	if err := r.ak.CheckAK(); err != nil {
		return nil, fmt.Errorf("aik_tpm: %w", err)
	}
	if record.EKCert != nil && *record.EKCert != "" {
		if r.ekCert, err = base64.StdEncoding.DecodeString(*record.EKCert); err != nil {
			return nil, fmt.Errorf("ekcert: %w", err)
		}
	}
	for _, text := range record.EKChain {
		der, err := base64.StdEncoding.DecodeString(text)
		if err != nil {
			return nil, fmt.Errorf("ekcert_chain: %w", err)
		}
		r.ekChain = append(r.ekChain, der)
	}
	return r, nil
}

func parseKey(text string) (*tpm.Public, error) {
	raw, err := base64.StdEncoding.DecodeString(text)
	if err != nil {
		return nil, err
	}
	return tpm.ParsePublic(raw)
}

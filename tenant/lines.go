package tenant

import (
	"bytes"
	"encoding/json"
	"fmt"

	"keylime/internal/api"
	"keylime/internal/python"
)

// The lines that keylime_tenant prints about one agent. Scripts look for them word by word.

func (r agentReport) upstream(j *journal) {
	if r.unregistered {
		status := fmt.Sprintf("Agent %s does not exist on registrar %s port %d.", r.agent, r.at.registrarHost, r.at.registrarPort)
		j.info("Agent %s does not exist on the registrar. Please register the agent with the registrar.", r.agent)
		j.info("%s", python.JSON.Of(answer{404, status, struct{}{}}))
	}
	if r.registrar != nil {
		r.upstreamRegistrar(j)
	}
	if r.verifier != nil {
		j.info("Agent Info from %s:", r.at.verifierTitle())
		j.bare(python.JSON.Of(map[string]any{r.agent: upstreamStatus(r.verifier, r.push)}))
	}
}

func (a addresses) verifierTitle() string {
	return fmt.Sprintf("Verifier (%s:%d)", a.verifierHost, a.verifierPort)
}

func (a addresses) registrarTitle() string {
	return fmt.Sprintf("Registrar (%s:%d)", a.registrarHost, a.registrarPort)
}

func (r agentReport) upstreamRegistrar(j *journal) {
	reg := r.registrar
	info := map[string]any{r.agent: struct {
		AIKTPM   string          `json:"aik_tpm"`
		RegCount int             `json:"regcount"`
		EKTPM    string          `json:"ek_tpm"`
		IP       *string         `json:"ip"`
		Port     *int            `json:"port"`
		MTLSCert *string         `json:"mtls_cert"`
		EKCert   *string         `json:"ekcert"`
		Provider json.RawMessage `json:"provider_keys,omitempty"`
		State    string          `json:"operational_state"`
	}{reg.AIKTPM, reg.RegCount, reg.EKTPM, reg.IP, reg.Port, reg.MTLSCert, reg.EKCert, reg.ProviderKeys, stateLabel(0)}}
	title := r.at.registrarTitle()
	status := fmt.Sprintf("Agent %s exists on registrar %s port %d.", r.agent, r.at.registrarHost, r.at.registrarPort)
	j.info("Status from %s: %s", title, status)
	j.info("%s", python.JSON.Of(answer{200, status, info}))
	j.info("Agent Info from %s:", title)
	j.bare(python.JSON.Of(info))
}

// answer is an envelope as upstream prints it.
type answer struct {
	Code    int    `json:"code"`
	Status  string `json:"status"`
	Results any    `json:"results"`
}

// upstreamStatus is a verifier's record with the state's name in place of its number; without it for a push agent.
func upstreamStatus(v *api.VerifierAgent, push bool) json.RawMessage {
	text, err := json.Marshal(v)
	if err != nil {
		return json.RawMessage(`{}`)
	}
	number := fmt.Sprintf(`"operational_state":%d,`, v.OperationalState)
	name := `"operational_state":"` + stateLabel(v.OperationalState) + `",`
	if push {
		name = ""
	}
	return bytes.Replace(text, []byte(number), []byte(name), 1)
}

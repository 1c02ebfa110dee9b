package differential

import (
	"bytes"
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"io"
	"slices"
	"testing"

	"keylime/internal/fleet"
	"keylime/tpm"
)

// entry is one measurement, of any template.
type entry struct {
	template  string
	alg       string // of digest
	digest    []byte
	name      string
	last      []byte // signature or buffer
	violation bool
}

// data is what the kernel hashes (Documentation/security/IMA-templates.rst).
func (e entry) data() []byte {
	if e.template == "ima" {
		return append(append(bytes.Clone(e.digest), e.name...), make([]byte, 256-len(e.name))...)
	}
	fields := [][]byte{slices.Concat([]byte(e.alg+":\x00"), e.digest), []byte(e.name + "\x00")}
	if e.template != "ima-ng" {
		fields = append(fields, e.last)
	}
	var b []byte
	for _, f := range fields {
		b = append(binary.LittleEndian.AppendUint32(b, uint32(len(f))), f...)
	}
	return b
}

// line is the entry in the list, whose template hashes are of the given algorithm.
func (e entry) line(log tpm.Hash) string {
	hash := sum(log, e.data())
	if e.violation {
		hash = make([]byte, log.Size())
	}
	digest := e.alg + ":" + hex.EncodeToString(e.digest)
	if e.template == "ima" {
		digest = hex.EncodeToString(e.digest)
	}
	text := fmt.Sprintf("%d %x %s %s %s", tpm.PCRIma, hash, e.template, digest, e.name)
	if e.template == "ima-sig" || e.template == "ima-buf" {
		text += " " + hex.EncodeToString(e.last)
	}
	return text
}

func sum(alg tpm.Hash, data []byte) []byte {
	h := alg.Crypto().New()
	h.Write(data)
	return h.Sum(nil)
}

// machine is an attested machine: its TPM and its measurement list.
type machine struct {
	tpm       *fleet.SoftTPM
	ak        *tpm.Public
	bank, log tpm.Hash
	lines     []string
	behind    []entry // at the end of the list, but not in PCR 10 yet
	boottime  int
	key       string // transport key
	bootLog   []byte
}

func newMachine(t *testing.T, random io.Reader, model fleet.Model, log tpm.Hash) *machine {
	t.Helper()
	soft, err := fleet.Build(random, model)
	if err != nil {
		t.Fatal(err)
	}
	ak, err := tpm.ParsePublic(soft.AKPublic())
	if err != nil {
		t.Fatal(err)
	}
	return &machine{tpm: soft, ak: ak, bank: ak.SchemeHash(), log: log, boottime: 1000, key: "-----BEGIN PUBLIC KEY-----\nX\n-----END PUBLIC KEY-----\n"}
}

// measure adds an entry to the list and to PCR 10.
func (m *machine) measure(t *testing.T, e entry) {
	t.Helper()
	m.catchUp(t)
	m.lines = append(m.lines, e.line(m.log))
	m.extend(t, e)
}

// show adds an entry to the list; PCR 10 follows with the next measurement.
func (m *machine) show(e entry) {
	m.lines = append(m.lines, e.line(m.log))
	m.behind = append(m.behind, e)
}

func (m *machine) catchUp(t *testing.T) {
	t.Helper()
	for _, e := range m.behind {
		m.extend(t, e)
	}
	m.behind = nil
}

func (m *machine) extend(t *testing.T, e entry) {
	t.Helper()
	digest := sum(m.bank, e.data())
	if e.violation {
		digest = bytes.Repeat([]byte{0xFF}, m.bank.Size())
	}
	if err := m.tpm.Extend(tpm.PCRIma, map[tpm.Hash][]byte{m.bank: digest}); err != nil {
		t.Fatal(err)
	}
}

func (m *machine) reboot() {
	m.tpm.Reset()
	m.lines, m.behind = nil, nil
	m.boottime++
}

// from is the list from an entry on, and the number of its first entry: an agent that has fewer shows all.
func (m *machine) from(number int) (lines []string, first int) {
	if number > len(m.lines) {
		number = 0
	}
	return slices.Clone(m.lines[number:]), number
}

// agentRecord is what upstream's verifier keeps of an agent.
func (m *machine) agentRecord(tpmPolicy, keyring string) map[string]any {
	return map[string]any{
		"agent_id": "d432fbb3-d2f1-4a97-9ef7-75bd81c00000", "ak_tpm": base64.StdEncoding.EncodeToString(m.ak.Bytes()),
		"accept_tpm_hash_algs": []string{m.bank.String()}, "accept_tpm_encryption_algs": []string{m.ak.EncAlg()},
		"tpm_policy": tpmPolicy, "ima_sign_verification_keys": keyring,
		"supported_version": "2.1", "attestation_count": 0, "public_key": "", "v": "",
	}
}

package differential

import (
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"

	"keylime/ima"
	"keylime/internal/attest"
	"keylime/internal/policy"
	"keylime/tpm"
)

// life is the rounds of one agent, judged here as they are generated and by the peer later.
type life struct {
	t       *testing.T
	machine *machine
	set     *policy.Set
	state   attest.State
	ours    [][]string // event ids of each round
	over    bool       // a round failed
	accept  []string   // algorithms of signatures

	question lifeQuestion
}

type lifeQuestion struct {
	Kind    string         `json:"kind"`
	Agent   map[string]any `json:"agent"`
	Runtime string         `json:"runtime_policy"`
	Boot    *string        `json:"mb_policy"`
	Engine  string         `json:"mb_policy_name"`
	Rounds  []turn         `json:"rounds"`
}

type turn struct {
	Nonce    string         `json:"nonce"`
	Response map[string]any `json:"response"`
}

// policies are an agent's, as texts.
type policies struct {
	runtime string
	tpm     string
	keyring string // enrolled keys for file signatures
	boot    string // reference state; "" is none
	engine  string // that judges boots by it
}

func newLife(t *testing.T, m *machine, p policies) *life {
	t.Helper()
	runtime, err := policy.CompileRuntime([]byte(p.runtime))
	if err != nil {
		t.Fatalf("%v\n%s", err, p.runtime)
	}
	pcr, err := policy.ParsePCR(p.tpm)
	if err != nil {
		t.Fatalf("%v\n%s", err, p.tpm)
	}
	set := &policy.Set{Runtime: runtime, PCR: pcr, Labels: policy.DefaultLabels(), IgnoreToMToU: true}
	if p.keyring != "" {
		if set.Keyring, _, err = ima.ParseKeyring(p.keyring); err != nil {
			t.Fatal(err)
		}
	}
	question := lifeQuestion{Kind: "life", Agent: m.agentRecord(p.tpm, p.keyring), Runtime: p.runtime, Engine: policy.BootAcceptAll}
	if p.boot != "" {
		if set.Boot, err = policy.CompileBoot(p.engine, []byte(p.boot)); err != nil {
			t.Fatalf("%v\n%s", err, p.boot)
		}
		question.Boot, question.Engine = &p.boot, p.engine
	}
	return &life{t: t, machine: m, set: set, accept: []string{m.ak.SignAlg()}, question: question}
}

// forgery changes an answer on its way to the verifier.
type forgery func(answer *answer)

// answer is what the agent sends.
type answer struct {
	quote                    tpm.Quote
	hashAlg, encAlg, signAlg string
	pubkey                   string
	list                     []string
	hasList                  bool
	first                    int
	nonce                    string
	mask                     tpm.Mask // the quote's
	machine                  *machine
}

// requote makes the quote anew, after what it is over was changed.
func (a *answer) requote(t *testing.T) {
	t.Helper()
	q, err := a.machine.tpm.Quote([]byte(a.nonce), a.mask, a.machine.bank)
	if err != nil {
		t.Fatal(err)
	}
	a.quote = q
}

// round attests once.
func (l *life) round(forgeries ...forgery) {
	l.t.Helper()
	if l.over {
		return
	}
	m := l.machine
	m.tpm.Advance(1e9)
	m.tpm.BindData(m.key)
	challenge := attest.Challenge{
		Nonce: fmt.Appendf(nil, "nonce%d", len(l.ours)), Mask: l.set.Mask(), BindData: true, Entry: l.state.NextEntry,
	}
	a := answer{
		hashAlg: m.bank.String(), encAlg: m.ak.EncAlg(), signAlg: m.ak.SignAlg(), pubkey: m.key,
		hasList: challenge.Mask.Has(tpm.PCRIma), nonce: string(challenge.Nonce), mask: challenge.Mask.With(tpm.PCRData), machine: m,
	}
	a.list, a.first = m.from(int(challenge.Entry))
	a.requote(l.t)
	for _, forge := range forgeries {
		forge(&a)
	}
	l.judge(challenge, &a)
}

// transportKey is the key of the answer, or else of an earlier good one, as a verifier keeps it.
func (l *life) transportKey(a *answer) string {
	if a.pubkey == "" && l.state.Attested {
		return l.machine.key
	}
	return a.pubkey
}

func (l *life) judge(challenge attest.Challenge, a *answer) {
	l.t.Helper()
	m := l.machine
	text := strings.Join(a.list, "\n")
	if len(a.list) > 0 {
		text += "\n"
	}
	out, err := attest.Verify(attest.Input{
		Identity: attest.Identity{
			AK: m.ak, AcceptHash: []string{m.bank.String()}, AcceptEnc: []string{m.ak.EncAlg()}, AcceptSign: l.accept,
		},
		Challenge: challenge,
		Evidence: attest.Evidence{
			Quote: a.quote, HashAlg: a.hashAlg, EncAlg: a.encAlg, SignAlg: a.signAlg, PubKey: l.transportKey(a),
			IMA: []byte(text), HasIMA: a.hasList, IMAEntry: uint64(a.first), BootLog: m.bootLog,
		},
		Policy: l.set, State: l.state,
	})
	if err != nil {
		l.t.Fatal(err)
	}
	l.state, l.over = out.State, len(out.Verdict.Failures) > 0
	l.ours = append(l.ours, eventIDs(out.Verdict))
	response := map[string]any{
		"quote": a.quote.String(), "hash_alg": a.hashAlg, "enc_alg": a.encAlg, "sign_alg": a.signAlg, "boottime": m.boottime,
		"ima_measurement_list_entry": a.first,
	}
	if a.pubkey != "" {
		response["pubkey"] = a.pubkey
	}
	if m.bootLog != nil {
		response["mb_measurement_list"] = base64.StdEncoding.EncodeToString(m.bootLog)
	}
	if a.hasList {
		response["ima_measurement_list"] = text
	}
	l.question.Rounds = append(l.question.Rounds, turn{string(challenge.Nonce), response})
}

// eventIDs are the distinct ids in order. A round that decides nothing has none, as upstream's has.
func eventIDs(v attest.Verdict) []string {
	ids := []string{}
	for _, f := range v.Failures {
		ids = append(ids, f.EventID)
	}
	slices.Sort(ids)
	return slices.Compact(ids)
}

// ask gives the life to the peer.
func (l *life) ask(p *peer) {
	l.question.Agent["accept_tpm_signing_algs"] = l.accept
	p.ask(l.t, l.question)
}

// theirs is the peer's answer.
func (l *life) theirs(p *peer) (rounds [][]string) {
	l.t.Helper()
	p.answer(l.t, &rounds)
	return rounds
}

func sameRounds(a, b [][]string) bool { return slices.EqualFunc(a, b, slices.Equal[[]string]) }

// describe shows a life that the two sides judge differently.
func (l *life) describe() string {
	var b strings.Builder
	fmt.Fprintf(&b, "runtime policy: %s\ntpm_policy: %s\nkeyring: %s\n", l.question.Runtime, l.question.Agent["tpm_policy"], l.question.Agent["ima_sign_verification_keys"])
	if l.question.Boot != nil {
		fmt.Fprintf(&b, "engine %s, measured-boot policy: %s\nevent log: %x\n", l.question.Engine, *l.question.Boot, l.machine.bootLog)
	}
	for i, turn := range l.question.Rounds {
		fmt.Fprintf(&b, "round %d, list from entry %v:\n%v\n", i+1, turn.Response["ima_measurement_list_entry"], turn.Response["ima_measurement_list"])
	}
	return b.String()
}

// rows are the subjects that docs/compatibility.md lists.
func rows(t *testing.T) map[string]bool {
	t.Helper()
	text, err := os.ReadFile("../../docs/compatibility.md")
	if err != nil {
		t.Fatal(err)
	}
	subjects := map[string]bool{}
	for line := range strings.Lines(string(text)) {
		if cells := strings.Split(line, "|"); len(cells) > 3 {
			subjects[strings.Trim(cells[1], " `")] = true
		}
	}
	return subjects
}

func hexOf(b []byte) string { return hex.EncodeToString(b) }

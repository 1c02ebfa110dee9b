package attest

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"math/rand/v2"
	"strconv"
	"strings"
	"testing"
	"time"

	"keylime/internal/fleet"
	"keylime/internal/policy"
	"keylime/tpm"
)

// A scenario is the life of one machine and its verifier, written as a sequence of steps:
//
//	measure(n)   the kernel measures n files of the policy: list and PCR 10
//	run(path)    the kernel measures one file, with the digest of its path
//	log(n)       n more entries stand in the list, but PCR 10 is not extended: the quote lags behind
//	catchup      PCR 10 is extended with what log left out
//	reboot       the TPM is reset and the list starts anew
//	suspend      the machine sleeps and wakes up
//	restart      the verifier loses its state
//	round        one round, which must pass
//	round=a,b    one round, which must end in these events and no others, or "again"
//	round!how=a  the same, with the answer forged as the table of forgeries says
type machine struct {
	tpm    *fleet.SoftTPM
	list   *fleet.Measured
	ak     *tpm.Public
	policy *policy.Set
	bind   bool
	key    string // transport key
	nonces *rand.ChaCha8
	files  int // measured so far
	ahead  []fleet.Measurement
	state  State
	last   Outcome
	chain  *fleet.BootLog // how the machine boots; nil: nothing is measured
	// accepted algorithms
	hash, enc, sign []string
}

// newMachine boots a machine with a P-256 AK, attested with the runtime policy of scenarioPolicy.
func newMachine(t testing.TB) *machine {
	t.Helper()
	return newMachineOf(t, fleet.Model{Alg: "ecc256"})
}

func newMachineOf(t testing.TB, model fleet.Model) *machine {
	t.Helper()
	random := rand.NewChaCha8([32]byte{1})
	soft, err := fleet.Build(random, model)
	if err != nil {
		t.Fatal(err)
	}
	ak, err := tpm.ParsePublic(soft.AKPublic())
	if err != nil {
		t.Fatal(err)
	}
	m := &machine{
		tpm: soft, ak: ak, nonces: random, bind: true,
		key:    "-----BEGIN PUBLIC KEY-----\nX\n-----END PUBLIC KEY-----\n",
		policy: scenarioPolicy(t),
		hash:   []string{"sha256"}, enc: []string{ak.EncAlg()}, sign: []string{ak.SignAlg()},
	}
	m.boot(t)
	return m
}

func (m *machine) boot(t testing.TB) {
	t.Helper()
	var err error
	if m.list, err = fleet.NewMeasured(m.tpm); err != nil {
		t.Fatal(err)
	}
	m.ahead = nil
}

// reboot starts the machine, which measures its boot first.
func (m *machine) reboot(t testing.TB) {
	t.Helper()
	if m.chain == nil {
		m.tpm.Reset()
	} else if err := m.chain.Boot(m.tpm); err != nil {
		t.Fatal(err)
	}
	m.boot(t)
}

func hexOf(b []byte) string { return hex.EncodeToString(b) }

// filePath and fileDigest are those of the policy's files.
func filePath(i int) string { return fmt.Sprintf("/usr/bin/tool%d", i) }

func fileDigest(path string) []byte {
	sum := sha256.Sum256([]byte(path))
	return sum[:]
}

const scenarioFiles = 1000

// scenarioPolicy allows the files /usr/bin/tool0 to tool999 and excludes /tmp.
func scenarioPolicy(t testing.TB) *policy.Set {
	t.Helper()
	zero := make([]byte, 10*sha256.Size)
	boot := sha256.Sum256(zero)
	digests := fmt.Sprintf(`"boot_aggregate":["%x"]`, boot)
	for i := range scenarioFiles {
		digests += fmt.Sprintf(`,"%s":["%x"]`, filePath(i), fileDigest(filePath(i)))
	}
	return compile(t, digests, `"/tmp/"`, "")
}

// compile makes a policy that asks for PCR 10.
func compile(t testing.TB, digests, excludes, rest string) *policy.Set {
	t.Helper()
	text := `{"meta":{"version":1,"generator":2},"release":0,"digests":{` + digests + `},"excludes":[` + excludes + `],
		"keyrings":{},"ima":{"ignored_keyrings":[],"log_hash_alg":"sha1","dm_policy":null},"ima-buf":{},"verification-keys":""` + rest + `}`
	runtime, err := policy.CompileRuntime([]byte(text))
	if err != nil {
		t.Fatal(err)
	}
	return set(t, runtime, `{"mask":"0x400"}`)
}

func set(t testing.TB, runtime *policy.Runtime, tpmPolicy string) *policy.Set {
	t.Helper()
	pcr, err := policy.ParsePCR(tpmPolicy)
	if err != nil {
		t.Fatal(err)
	}
	return &policy.Set{Runtime: runtime, PCR: pcr, Labels: policy.DefaultLabels(), IgnoreToMToU: true}
}

// forgeries change an answer on its way to Verify.
var forgeries = map[string]func(m *machine, in *Input){
	"otherkey":  func(m *machine, in *Input) { in.Evidence.PubKey += "x" },
	"nokey":     func(m *machine, in *Input) { in.Evidence.PubKey = "" },
	"nolist":    func(m *machine, in *Input) { in.Evidence.HasIMA, in.Evidence.IMA = false, nil },
	"empty":     func(m *machine, in *Input) { in.Evidence.IMA = nil },
	"garbage":   func(m *machine, in *Input) { in.Evidence.IMA = append([]byte("garbage\n"), in.Evidence.IMA...) },
	"entry+1":   func(m *machine, in *Input) { in.Evidence.IMAEntry++ },
	"full":      func(m *machine, in *Input) { in.Evidence.IMA, in.Evidence.IMAEntry = m.list.From(0) },
	"truncated": func(m *machine, in *Input) { in.Evidence.IMA = dropLast(in.Evidence.IMA) },
	"badsig":    func(m *machine, in *Input) { in.Evidence.Quote.Signature[len(in.Evidence.Quote.Signature)-1] ^= 1 },
	"othernonce": func(m *machine, in *Input) {
		in.Challenge.Nonce = append([]byte{'x'}, in.Challenge.Nonce[1:]...)
	},
}

// dropLast removes the last line.
func dropLast(list []byte) []byte {
	list = bytes.TrimSuffix(list, []byte("\n"))
	return list[:bytes.LastIndexByte(list, '\n')+1]
}

// answer makes the input of one round, as verifier and agent would.
func (m *machine) answer(t testing.TB) Input {
	t.Helper()
	random := make([]byte, 10)
	_, _ = m.nonces.Read(random)
	ch := Challenge{
		Nonce:    []byte(hex.EncodeToString(random)),
		Mask:     m.policy.Mask(),
		BindData: m.bind,
		Entry:    m.state.NextEntry,
	}
	m.tpm.Advance(2 * time.Second)
	m.tpm.BindData(m.key)
	mask := ch.Mask
	if m.bind {
		mask = mask.With(tpm.PCRData)
	}
	quote, err := m.tpm.Quote(ch.Nonce, mask, m.ak.SchemeHash())
	if err != nil {
		t.Fatal(err)
	}
	list, first := m.list.From(ch.Entry)
	var bootLog []byte
	if m.chain != nil {
		bootLog = m.chain.Bytes()
	}
	return Input{
		Identity:  Identity{AK: m.ak, AcceptHash: m.hash, AcceptEnc: m.enc, AcceptSign: m.sign},
		Challenge: ch,
		Evidence: Evidence{
			Quote: quote, HashAlg: m.ak.SchemeHash().String(), EncAlg: m.ak.EncAlg(), SignAlg: m.ak.SignAlg(),
			PubKey: m.key, IMA: list, HasIMA: true, IMAEntry: first, BootLog: bootLog,
		},
		Policy: m.policy,
		State:  m.state,
		Now:    time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC),
	}
}

func (m *machine) verify(t testing.TB, in Input) Outcome {
	t.Helper()
	out, err := Verify(in)
	if err != nil {
		t.Fatal(err)
	}
	m.state, m.last = out.State, out
	for _, f := range out.Verdict.Failures {
		// What the quote itself lacks no later round can mend, an unsafe clock excepted; all else may pass again.
		want := !strings.HasPrefix(f.EventID, "qoute_validation.") || strings.Contains(f.Context, "not safe")
		if f.Recoverable != want {
			t.Errorf("%s is recoverable: %v", f.EventID, f.Recoverable)
		}
	}
	return out
}

// events lists the event ids of a verdict, each once; "again" and "pass" stand for the outcomes without one.
func events(v Verdict) string {
	if v.Pass() {
		return "pass"
	}
	if v.Again {
		return "again"
	}
	var ids []string
	seen := map[string]bool{}
	for _, f := range v.Failures {
		if !seen[f.EventID] {
			seen[f.EventID] = true
			ids = append(ids, f.EventID)
		}
	}
	return strings.Join(ids, ",")
}

// play runs a scenario.
func (m *machine) play(t testing.TB, scenario string) {
	t.Helper()
	for i, step := range strings.Fields(scenario) {
		if got, want := m.step(t, step); got != want {
			t.Fatalf("step %d, %s: got %s, want %s\n%+v", i+1, step, got, want, m.last.Verdict.Failures)
		}
	}
}

func (m *machine) step(t testing.TB, step string) (got, want string) {
	t.Helper()
	verb, want, expects := strings.Cut(step, "=")
	verb, forgery, forged := strings.Cut(verb, "!")
	verb, arg, _ := strings.Cut(strings.TrimSuffix(verb, ")"), "(")
	count, _ := strconv.Atoi(arg)
	switch verb {
	case "measure":
		for range count {
			m.measure(t, filePath(m.files))
			m.files++
		}
	case "run":
		m.measure(t, arg)
	case "log":
		for range count {
			entry := fleet.Measurement{Path: filePath(m.files), Digest: fileDigest(filePath(m.files))}
			m.list.Log(entry.Path, entry.Digest)
			m.ahead = append(m.ahead, entry)
			m.files++
		}
	case "catchup":
		for _, entry := range m.ahead {
			if err := m.tpm.Extend(tpm.PCRIma, entry.Extends(tpm.SHA1, tpm.SHA256, tpm.SHA384)); err != nil {
				t.Fatal(err)
			}
		}
		m.ahead = nil
	case "reboot":
		m.reboot(t)
	case "suspend":
		m.tpm.Restart()
	case "restart":
		m.state = State{}
	case "round":
		in := m.answer(t)
		if forged {
			forgeries[forgery](m, &in)
		}
		if !expects {
			want = "pass"
		}
		return events(m.verify(t, in).Verdict), want
	default:
		t.Fatalf("unknown step %q", step)
	}
	return "", ""
}

func (m *machine) measure(t testing.TB, path string) {
	t.Helper()
	if _, err := m.list.Add(path, fileDigest(path)); err != nil {
		t.Fatal(err)
	}
}

package policy

import (
	"bufio"
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"keylime/internal/fleet"
	"keylime/internal/recorded"
	"keylime/internal/uefi"
	"keylime/tpm"
)

// peerJudge reads cases, one JSON object a line, and prints Python's reason for each. A case has the reference state and
// either the log as it was parsed here, or the binary log, which Python's own parser reads then.
const peerJudge = `
import base64, json, sys
from keylime.mba.elchecking import example, policies
from keylime.mba.elparsing import tpm2_tools_elparser as parser
for line in sys.stdin:
    case = json.loads(line)
    reason = ""
    try:
        log = case.get("log")
        if log is None:
            failure, log = parser.parse_binary_bootlog(base64.b64decode(case["raw"]))
            if failure or log is None:
                raise Exception("not parsed")
        reason = policies.get_policy("example").evaluate(case["reference"], log)
    except Exception as e:
        reason = "exception: %r" % e
    print(json.dumps(reason), flush=True)
`

type bootCase struct {
	name      string
	raw       []byte
	reference string
}

// peerReasons has Python judge cases; KEYLIME_PEER_VENV names a virtual environment that has Keylime's code.
func peerReasons(t *testing.T, cases []bootCase, parse bool) []string {
	t.Helper()
	venv := os.Getenv("KEYLIME_PEER_VENV")
	if venv == "" {
		t.Skip("KEYLIME_PEER_VENV does not name a virtual environment with Keylime's Python code")
	}
	var input bytes.Buffer
	for _, c := range cases {
		line := map[string]any{"reference": json.RawMessage(c.reference), "raw": base64.StdEncoding.EncodeToString(c.raw)}
		if !parse {
			log, err := uefi.Parse(c.raw)
			if err != nil {
				t.Fatal(err)
			}
			if line["log"], err = log.Document(); err != nil {
				t.Fatal(err)
			}
		}
		if err := json.NewEncoder(&input).Encode(line); err != nil {
			t.Fatal(err)
		}
	}
	cmd := exec.CommandContext(t.Context(), filepath.Join(venv, "bin", "python"), "-c", peerJudge)
	cmd.Dir = t.TempDir()
	cmd.Env = append(os.Environ(), "KEYLIME_DIR="+cmd.Dir)
	cmd.Stdin = &input
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%v\n%s", err, stderr.String())
	}
	var reasons []string
	for lines := bufio.NewScanner(bytes.NewReader(out)); lines.Scan(); {
		var reason string
		if json.Unmarshal(lines.Bytes(), &reason) == nil {
			reasons = append(reasons, reason)
		}
	}
	if len(reasons) != len(cases) {
		t.Fatalf("%d answers to %d cases\n%s", len(reasons), len(cases), stderr.String())
	}
	return reasons
}

// TestExampleAsPythonJudges compares verdicts of the engine example on generated boots and reference states.
func TestExampleAsPythonJudges(t *testing.T) {
	t.Parallel()
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 0))
	cases := make([]bootCase, 2000)
	for i := range cases {
		cases[i] = randomBoot(random)
	}
	comparePeer(t, cases, peerReasons(t, cases, false))
}

// TestLogsAsPythonReadsThem does the same with Python's own parser of logs.
func TestLogsAsPythonReadsThem(t *testing.T) {
	t.Parallel()
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 1))
	cases := make([]bootCase, 40)
	for i := range cases {
		cases[i] = randomBoot(random)
	}
	comparePeer(t, cases, peerReasons(t, cases, true))
}

// TestRecordedBootsAsPythonJudges has Python make the reference states of real boots, and judge the boots by them.
func TestRecordedBootsAsPythonJudges(t *testing.T) {
	t.Parallel()
	venv := os.Getenv("KEYLIME_PEER_VENV")
	if venv == "" {
		t.Skip("KEYLIME_PEER_VENV does not name a virtual environment with Keylime's Python code")
	}
	var cases []bootCase
	for _, name := range []string{"rhel-secureboot.bin", "vm-no-secureboot.bin", "fedora-vm-secureboot.bin"} {
		raw := recorded.File(t, "uefi/"+name)
		flags := []string{"create", "measured-boot", "-e", filepath.Join(recorded.Dir(t), "uefi", name)}
		p := believed(t, raw)
		own, err := BootReference(p, BootReferenceOptions{})
		if errors.Is(err, ErrSecureBootOff) {
			flags = append(flags, "-i")
			own, err = BootReference(p, BootReferenceOptions{WithoutSecureBoot: true})
		}
		if err != nil {
			t.Fatal(err)
		}
		cmd := exec.CommandContext(t.Context(), filepath.Join(venv, "bin", "keylime-policy"), flags...)
		cmd.Dir = t.TempDir()
		out, err := cmd.Output()
		if err != nil {
			t.Fatal(err)
		}
		theirs := out[bytes.LastIndex(out, []byte("\n{"))+1:]
		var a, b any
		if json.Unmarshal(own, &a) != nil || json.Unmarshal(theirs, &b) != nil {
			t.Fatalf("%s: no JSON:\n%.300s\n%.300s", name, own, theirs)
		}
		if diff := cmp.Diff(b, a); diff != "" {
			t.Errorf("%s: the reference state differs (-Python +here):\n%s", name, diff)
		}
		cases = append(cases, bootCase{name, raw, string(own)}, bootCase{name + ", another's", raw, fleet.NewBootChain("1").Reference()})
	}
	comparePeer(t, cases, peerReasons(t, cases, true))
}

func comparePeer(t *testing.T, cases []bootCase, theirs []string) {
	t.Helper()
	accepted := 0
	for i, c := range cases {
		ours := ""
		if b, err := CompileBoot(BootExample, []byte(c.reference)); err != nil {
			ours = err.Error()
		} else {
			ours = b.Judge(believed(t, c.raw))
		}
		if (ours == "") != (theirs[i] == "") {
			t.Errorf("case %d, %s:\nhere:   %.300s\nPython: %.300s", i, c.name, ours, theirs[i])
		}
		if ours == "" {
			accepted++
		}
	}
	if accepted == 0 || accepted == len(cases) {
		t.Errorf("%d of %d boots are accepted: the cases say nothing", accepted, len(cases))
	}
	t.Logf("%d cases, %d accepted", len(cases), accepted)
}

// randomBoot is a boot that differs from its reference state in nothing or in one or two things.
func randomBoot(random *rand.Rand) bootCase {
	chain := fleet.NewBootChain("1")
	l := chain.Log(tpm.SHA1, tpm.SHA256)
	reference := chain.Reference()
	var names []string
	for range random.IntN(3) {
		m := bootMutations[random.IntN(len(bootMutations))]
		names = append(names, m.name)
		if m.reference != nil {
			reference = m.reference(reference)
		}
		if m.chain != nil {
			m.chain(&chain)
			l = chain.Log(tpm.SHA1, tpm.SHA256)
		}
		if m.log != nil {
			m.log(l)
		}
	}
	return bootCase{strings.Join(names, " and "), l.Bytes(), reference}
}

// replaced makes a mutation of the reference state's text.
func replaced(from, to string) func(string) string {
	return func(text string) string { return strings.Replace(text, from, to, 1) }
}

// bootMutations are what may be different. Most of them are refused, each by another rule; some are accepted.
var bootMutations = slices.Concat([]bootMutation{
	{name: "nothing"},
	{name: "kernel", chain: func(c *fleet.BootChain) { c.Kernel = "x" }},
	{name: "initrd", chain: func(c *fleet.BootChain) { c.Initrd = "x" }},
	{name: "shim", chain: func(c *fleet.BootChain) { c.Shim = "x" }},
	{name: "grub", chain: func(c *fleet.BootChain) { c.Grub = "x" }},
	{name: "firmware", chain: func(c *fleet.BootChain) { c.Firmware = "x" }},
	{name: "command line", chain: func(c *fleet.BootChain) { c.CommandLine = "init=/bin/sh" }},
	{name: "secure boot off", chain: func(c *fleet.BootChain) { c.SecureBootOff = true }},
	{name: "more forbidden", chain: func(c *fleet.BootChain) { c.Forbidden = append(c.Forbidden, "more") }},
	{name: "less forbidden", chain: func(c *fleet.BootChain) { c.Forbidden = c.Forbidden[:1] }},
	{name: "nothing forbidden", chain: func(c *fleet.BootChain) { c.Forbidden = nil }},
	{name: "locality", log: func(l *fleet.BootLog) { l.Note([]byte("some vendor's note")) }},
	{name: "no secure boot wanted", reference: replaced(`"has_secureboot":true`, `"has_secureboot":false`)},
	{name: "secure boot by default", reference: replaced(`"has_secureboot":true,`, ``)},
	{name: "no db", reference: replaced(`"db":[`, `"xx":[`)},
	{name: "null kernels", reference: replaced(`"kernels":[`, `"kernels":null,"k":[`)},
	{name: "pattern", reference: replaced(`"kernel_cmdline":"/vmlinuz-1`, `"kernel_cmdline":"/vmlinuz-[0-9]+`)},
	{name: "pattern that takes all", reference: replaced(`"kernel_cmdline":"`, `"kernel_cmdline":".*|`)},
	{name: "bad hex", reference: replaced(`"sha256":"0x`, `"sha256":"`)},
	{name: "no mok", reference: replaced(`"mokdig":[`, `"mokdig":[],"m":[`)},
	{name: "mok as mokx", reference: replaced(`"mokdig"`, `"mokxdig2"`)},
	{name: "extra field", reference: replaced(`{`, `{"extra":1,`)},
	{name: "no owner", reference: replaced(`"SignatureOwner"`, `"Owner"`)},
}, extraEvents())

type bootMutation struct {
	name      string
	reference func(string) string
	chain     func(*fleet.BootChain)
	log       func(*fleet.BootLog)
}

// extraEvents adds one event of each kind to each PCR, with payloads that rules look at.
func extraEvents() (list []bootMutation) {
	global, _ := uefi.ParseGUID("8be4df61-93ca-11d2-aa0d-00e098032b8c")
	security, _ := uefi.ParseGUID("d719b2cb-3d3a-4596-a3bc-dad00e67656f")
	shim, _ := uefi.ParseGUID("605dab50-e046-4300-abb6-3dd810dd8b23")
	add := func(pcr int, kind uefi.EventType, data, measured []byte) {
		list = append(list, bootMutation{
			name: fmt.Sprintf("PCR %d, %v %.40q", pcr, kind, data),
			log:  func(l *fleet.BootLog) { l.Event(pcr, kind, data, measured) },
		})
	}
	for pcr := range 16 {
		for _, kind := range []uefi.EventType{1, 5, 6, 9, 0xA, 0xB, 0xC, 0x80000009, 0x8000000B, 0x8401} {
			add(pcr, kind, []byte{1, 2, 3, 4}, []byte{1, 2, 3, 4})
		}
		add(pcr, uefi.Separator, make([]byte, 4), make([]byte, 4))
		add(pcr, uefi.Separator, []byte{1, 0, 0, 0}, []byte{1, 0, 0, 0})
		for _, image := range []uefi.EventType{uefi.BootApplication, uefi.BootDriver, uefi.RuntimeDriver} {
			add(pcr, image, make([]byte, 32), []byte("image"))
		}
		for _, text := range []string{"Calling EFI Application from Boot Option", "Entering ROM Based Setup", "UEFI Debug Mode", "Exit Boot Services Returned with Success"} {
			add(pcr, uefi.EFIAction, []byte(text), []byte(text))
		}
		for _, label := range []string{"MokList", "MokListX", "MokListTrusted", "/loader/entries/x", "/grub/x", "/vmlinuz", "/initrd", "x/initramfs", "grub_cmd: ls", "kernel_cmdline: b", "other"} {
			text := []byte(label)
			if _, after, ok := strings.Cut(label, " "); ok && pcr == grubPCR {
				text = []byte(after)
			}
			add(pcr, uefi.IPL, []byte(label+"\x00"), text)
		}
	}
	for _, v := range []struct {
		vendor uefi.GUID
		name   string
		data   []byte
	}{
		{global, "SecureBoot", []byte{1}}, {global, "SecureBoot", []byte{0}}, {global, "PK", nil}, {security, "vendor_db", nil},
		{security, "db", nil}, {global, "BootOrder", []byte{1, 0}}, {global, "Boot0001", make([]byte, 12)}, {global, "Other", []byte{1}},
		{global, "BootNext", []byte{1}}, {shim, "MokListRT", []byte{1}}, {shim, "MokListTrusted", []byte{1}}, {shim, "Shim", make([]byte, 20)},
		{shim, "SbatLevel", []byte("sbat")}, {security, "vendor_db", make([]byte, 20)}, {shim, "Other", []byte{1}},
	} {
		data := fleet.Variable(v.vendor, v.name, v.data)
		add(7, uefi.VariableDriverConfig, data, data)
		add(7, uefi.VariableAuthority, data, data)
		add(1, uefi.VariableBoot, data, v.data)
		add(1, uefi.VariableBoot2, data, data)
	}
	return list
}

const grubPCR = 8

package uefi_test

import (
	"bytes"
	"crypto/rand"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"keylime/internal/fleet"
	"keylime/internal/uefi"
	"keylime/tpm"
)

// chain is a log of a whole boot.
func chain() *fleet.BootLog { return fleet.NewBootChain("1").Log(tpm.SHA1, tpm.SHA256, tpm.SHA384) }

func parse(t testing.TB, raw []byte) *uefi.Log {
	t.Helper()
	log, err := uefi.Parse(raw)
	if err != nil {
		t.Fatal(err)
	}
	return log
}

// record is a crypto-agile record with digests of zeros.
func record(pcr int, kind uefi.EventType, data []byte, banks ...tpm.Hash) []byte {
	b := le32(uint32(pcr), uint32(kind), uint32(len(banks)))
	for _, bank := range banks {
		b = binary.LittleEndian.AppendUint16(b, uint16(bank))
		b = append(b, make([]byte, bank.Size())...)
	}
	return append(append(b, le32(uint32(len(data)))...), data...)
}

func le32(fields ...uint32) (b []byte) {
	for _, f := range fields {
		b = binary.LittleEndian.AppendUint32(b, f)
	}
	return b
}

// header is a Spec ID event with the algorithms as given.
func header(algorithms ...uint16) []byte {
	data := append([]byte("Spec ID Event03\x00"), 0, 0, 0, 0, 0, 2, 0, 2)
	data = append(data, le32(uint32(len(algorithms)/2))...)
	for _, field := range algorithms {
		data = binary.LittleEndian.AppendUint16(data, field)
	}
	data = append(data, 0)
	b := append(le32(0, uint32(uefi.NoAction)), make([]byte, 20)...)
	return append(append(b, le32(uint32(len(data)))...), data...)
}

// TestBadLogs holds that every fault names its event and nothing is allocated for what is only announced (NT-43).
func TestBadLogs(t *testing.T) {
	t.Parallel()
	good := fleet.NewBootLog(tpm.SHA256).Bytes()
	after := func(b ...byte) []byte { return append(bytes.Clone(good), b...) }
	guid := make([]byte, 16)
	for name, c := range map[string]struct {
		raw  []byte
		want string
	}{
		"record cut":            {good[:len(good)-1], "event 0: event data needs"},
		"size of 4 GiB":         {after(append(record(1, uefi.IPL, nil, tpm.SHA256)[:46], 0xFF, 0xFF, 0xFF, 0xFF)...), "event 1: event data needs 4294967295 bytes"},
		"65,535 digests":        {after(le32(1, 13, 65535)...), "event 1: 65535 digests, the log's header names 1"},
		"PCR 24":                {after(record(24, uefi.IPL, nil, tpm.SHA256)...), "event 1: PCR 24"},
		"PCR of 32 bits":        {after(le32(0xFFFFFFFF, 13)...), "event 1: PCR 4294967295"},
		"unknown algorithm":     {after(record(1, uefi.IPL, nil, tpm.SHA1)...), "event 1: digest algorithm 0x0004"},
		"algorithm twice":       {append(header(4, 20, 11, 32), record(1, uefi.IPL, nil, tpm.SHA1, tpm.SHA1)...), "event 1: two digests of algorithm sha1"},
		"header without banks":  {header(), "event 0: log header: 0 digest algorithms"},
		"header, wrong size":    {header(11, 20), "event 0: log header: digests of sha256 cannot have 20 bytes"},
		"header, size 0":        {header(99, 0), "event 0: log header: digests of alg-0x0063"},
		"header, bank twice":    {header(11, 32, 11, 32), "event 0: log header: algorithm sha256 stands twice"},
		"note with digest":      {after(flip(record(0, uefi.NoAction, nil, tpm.SHA256), 20)...), "event 1: EV_NO_ACTION with a digest"},
		"variable, short":       {after(record(7, uefi.VariableDriverConfig, guid, tpm.SHA256)...), "event 1: name length needs 8 bytes"},
		"variable, name":        {after(record(7, uefi.VariableDriverConfig, slices.Concat(guid, le32(0xFFFFFFFF, 0xFFFFFFFF, 0, 0)), tpm.SHA256)...), "event 1: variable's name of 18446744073709551615 characters"},
		"variable, data":        {after(record(7, uefi.VariableBoot, slices.Concat(guid, le32(0, 0, 0xFFFFFFFF, 0xFFFFFFFF)), tpm.SHA256)...), "event 1: variable's data needs 18446744073709551615 bytes"},
		"SecureBoot, two bytes": {after(record(7, uefi.VariableDriverConfig, fleet.Variable(uefi.GUID{}, "SecureBoot", []byte{1, 0}), tpm.SHA256)...), `event 1: variable "SecureBoot": 2 bytes`},
		"list, size":            {after(record(7, uefi.VariableDriverConfig, fleet.Variable(uefi.GUID{}, "dbx", slices.Concat(guid, le32(0xFFFFFFFF, 0, 48))), tpm.SHA256)...), `event 1: variable "dbx": signature list 0: signatures needs`},
		"list, header":          {after(record(7, uefi.VariableDriverConfig, fleet.Variable(uefi.GUID{}, "dbx", slices.Concat(guid, le32(28, 0xFFFFFFFF, 48))), tpm.SHA256)...), `no room for its header`},
		"list, entries of 0":    {after(record(7, uefi.VariableDriverConfig, fleet.Variable(uefi.GUID{}, "db", slices.Concat(guid, le32(28, 0, 0))), tpm.SHA256)...), `are not signatures of 0 bytes`},
		"image, path":           {after(record(4, uefi.BootApplication, append(make([]byte, 24), 1, 0, 0, 0, 0, 0, 0, 0), tpm.SHA256)...), "event 1: device path needs 1 bytes"},
		"blob":                  {after(record(0, uefi.FirmwareBlob, make([]byte, 15), tpm.SHA256)...), "event 1: blob length needs 8 bytes"},
		"blob, description":     {after(record(0, uefi.FirmwareBlob2, []byte{200}, tpm.SHA256)...), "event 1: description needs 200 bytes"},
		"H-CRTM":                {after(record(0, uefi.HCRTMEvent, []byte("HCRTM\x00"), tpm.SHA256)...), "event 1: H-CRTM event with data other"},
		"too many events":       {append(bytes.Clone(good), bytes.Repeat(record(1, uefi.IPL, nil, tpm.SHA256), 1<<16)...), "event 65536: a log has at most 65536 events"},
		"too large":             {make([]byte, uefi.MaxLog+1), "event log of 16777217 bytes"},
		"no log":                {[]byte("this is no event log, but some text"), "event 0: "},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, err := uefi.Parse(c.raw)
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %v, want %q", err, c.want)
			}
		})
	}
}

func flip(b []byte, at int) []byte {
	b = bytes.Clone(b)
	b[at] ^= 1
	return b
}

// TestTruncatedLogs cuts a log at every byte: it ends between two events, or the fault names the event.
func TestTruncatedLogs(t *testing.T) {
	t.Parallel()
	raw := chain().Bytes()
	whole := 0
	for n := range raw {
		log, err := uefi.Parse(raw[:n])
		var fault *uefi.EventError
		switch {
		case err == nil:
			whole = len(log.Events())
		case !errors.As(err, &fault) || fault.Number != whole:
			t.Fatalf("cut at %d after %d events: %v", n, whole, err)
		}
	}
}

// quoted boots a TPM as a log says and quotes it.
func quoted(t testing.TB, l *fleet.BootLog, bank tpm.Hash, mask tpm.Mask) tpm.VerifiedPCRs {
	t.Helper()
	soft, err := fleet.Build(rand.Reader, fleet.Model{Alg: "ecc256", Hash: bank})
	if err != nil {
		t.Fatal(err)
	}
	if err := l.Boot(soft); err != nil {
		t.Fatal(err)
	}
	nonce := []byte("nonce")
	quote, err := soft.Quote(nonce, mask, bank)
	if err != nil {
		t.Fatal(err)
	}
	ak, err := tpm.ParsePublic(soft.AKPublic())
	if err != nil {
		t.Fatal(err)
	}
	pcrs, err := tpm.VerifyQuote(ak, quote, tpm.Expected{Nonce: nonce, Mask: mask, Hash: bank})
	if err != nil {
		t.Fatal(err)
	}
	return pcrs
}

const bootPCRs tpm.Mask = 0xFBFF

// TestReplayProves boots machines in each way that PCR 0 can start, and has the log explain the quote.
func TestReplayProves(t *testing.T) {
	t.Parallel()
	fromLocality3 := fleet.NewBootLog(tpm.SHA1, tpm.SHA256)
	fromLocality3.StartedFrom(3)
	fromLocality3.Event(0, uefi.PostCode, []byte("code"), []byte("code"))
	hcrtm := fleet.NewBootLog(tpm.SHA256)
	hcrtm.HCRTM([]byte("first firmware"))
	hcrtm.Note(append([]byte("StartupLocality\x00"), 3)) // means nothing after an H-CRTM sequence
	hcrtm.Event(0, uefi.PostCode, []byte("code"), []byte("code"))
	legacy := fleet.NewLegacyBootLog()
	legacy.Event(0, uefi.PostCode, []byte("code"), []byte("code"))
	legacy.Event(4, uefi.IPL, []byte("boot\x00"), []byte("boot"))
	for name, c := range map[string]struct {
		log  *fleet.BootLog
		bank tpm.Hash
	}{
		"a whole boot, sha256": {chain(), tpm.SHA256},
		"a whole boot, sha1":   {chain(), tpm.SHA1},
		"locality 3":           {fromLocality3, tpm.SHA256},
		"H-CRTM":               {hcrtm, tpm.SHA256},
		"TCG 1.2":              {legacy, tpm.SHA1},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			log := parse(t, c.log.Bytes())
			proven, wrong, err := uefi.Replay(log, quoted(t, c.log, c.bank, bootPCRs), bootPCRs)
			if err != nil || len(wrong) > 0 {
				t.Fatal(err, wrong)
			}
			if proven.Mask() != bootPCRs {
				t.Errorf("proven for %v", proven.Mask())
			}
			events := 0
			for range proven.Events() {
				events++
			}
			if events != len(log.Events()) {
				t.Errorf("%d events, want %d", events, len(log.Events()))
			}
		})
	}
}

// NT-32: a log of another machine, or one that was changed, does not explain the quote.
func TestChangedLogsMismatch(t *testing.T) {
	t.Parallel()
	original := fleet.NewBootLog(tpm.SHA256)
	original.StartedFrom(3)
	for pcr, text := range []string{"firmware", "configuration"} {
		original.Event(pcr, uefi.PostCode, []byte(text), []byte(text))
		original.Event(pcr, uefi.Separator, make([]byte, 4), make([]byte, 4))
	}
	pcrs := quoted(t, original, tpm.SHA256, bootPCRs)
	raw := original.Bytes()
	events := split(t, raw)
	join := func(order ...int) []byte {
		var b []byte
		for _, i := range order {
			b = append(b, events[i]...)
		}
		return b
	}
	if !bytes.Equal(join(0, 1, 2, 3, 4, 5), raw) {
		t.Fatal("the log was not split into its events")
	}
	other := fleet.NewBootChain("2").Log(tpm.SHA256)
	for name, changed := range map[string][]byte{
		"another machine's":   other.Bytes(),
		"event removed":       join(0, 1, 2, 3, 5),
		"two swapped":         join(0, 1, 3, 2, 4, 5),
		"event repeated":      join(0, 1, 2, 2, 3, 4, 5),
		"note removed":        join(0, 2, 3, 4, 5),
		"locality altered":    bytes.Replace(raw, []byte("StartupLocality\x00\x03"), []byte("StartupLocality\x00\x04"), 1),
		"note made an event":  retyped(raw, events, 1, uefi.PostCode),
		"event made a note":   nil, // refused by the parser, below
		"digest altered":      flip(raw, len(join(0, 1))+20),
		"event moved to PCR1": flip(raw, len(join(0, 1))),
	} {
		if changed == nil {
			continue
		}
		log := parse(t, changed)
		proven, wrong, err := uefi.Replay(log, pcrs, bootPCRs)
		if err != nil || len(wrong) == 0 {
			t.Errorf("%s: %v, no mismatch", name, err)
		}
		if proven.Mask() != 0 || proven.Aggregates() != nil {
			t.Errorf("%s: something is proven", name)
		}
	}
	if _, err := uefi.Parse(retyped(raw, events, 2, uefi.NoAction)); err == nil || !strings.Contains(err.Error(), "event 2: EV_NO_ACTION with a digest") {
		t.Errorf("an event made a note: %v", err)
	}
}

// split cuts a crypto-agile log into its events.
func split(t *testing.T, raw []byte) (events [][]byte) {
	t.Helper()
	rest := raw
	for _, e := range parse(t, raw).Events() {
		size := 16 + len(e.Data)
		for _, d := range e.Digests {
			size += 2 + len(d.Value)
		}
		if e.Number == 0 {
			size = 32 + len(e.Data)
		}
		events, rest = append(events, rest[:size]), rest[size:]
	}
	return events
}

// retyped gives one event another type.
func retyped(raw []byte, events [][]byte, number int, kind uefi.EventType) []byte {
	raw = bytes.Clone(raw)
	at := 4
	for _, e := range events[:number] {
		at += len(e)
	}
	copy(raw[at:], le32(uint32(kind)))
	return raw
}

// TestStartOfPCR0 refuses what no TPM does.
func TestStartOfPCR0(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		write func(l *fleet.BootLog)
		want  string
	}{
		"locality too late": {func(l *fleet.BootLog) { l.Event(0, uefi.PostCode, nil, nil); l.StartedFrom(3) }, "event 2: StartupLocality after PCR 0 was extended"},
		"locality twice":    {func(l *fleet.BootLog) { l.StartedFrom(3); l.StartedFrom(0) }, "event 2: a second StartupLocality"},
		"locality 2":        {func(l *fleet.BootLog) { l.StartedFrom(2) }, "event 1: StartupLocality 2; a TPM is started from locality 0 or 3, or by an H-CRTM sequence"},
		"H-CRTM too late":   {func(l *fleet.BootLog) { l.Event(0, uefi.PostCode, nil, nil); l.HCRTM(nil) }, "event 2: H-CRTM event after PCR 0 was extended"},
	} {
		l := fleet.NewBootLog(tpm.SHA256)
		c.write(l)
		if _, err := parse(t, l.Bytes()).PCRs(tpm.SHA256); err == nil || err.Error() != c.want {
			t.Errorf("%s: got %v, want %s", name, err, c.want)
		}
	}
	if _, err := parse(t, chain().Bytes()).PCRs(tpm.SHA512); !errors.Is(err, uefi.ErrNoBank) {
		t.Errorf("bank that the log lacks: %v", err)
	}
}

// TestPayloadsAreFactsOnlyWhenMeasured holds payloads to their digests, type by type, in every bank (HARDEN 6).
func TestPayloadsAreFactsOnlyWhenMeasured(t *testing.T) {
	t.Parallel()
	variable := fleet.Variable(uefi.GUID{1}, "SecureBoot", []byte{1})
	for name, c := range map[string]struct {
		pcr            int
		kind           uefi.EventType
		data, measured []byte
		want           uefi.Binding
	}{
		"variable":                {7, uefi.VariableDriverConfig, variable, variable, uefi.Bound},
		"variable, other":         {7, uefi.VariableDriverConfig, variable, []byte{0}, uefi.Mismatched},
		"variable, value alone":   {7, uefi.VariableDriverConfig, variable, []byte{1}, uefi.Mismatched},
		"authority":               {7, uefi.VariableAuthority, fleet.Variable(uefi.GUID{1}, "x", []byte{1}), []byte{1}, uefi.Mismatched},
		"boot variable, value":    {1, uefi.VariableBoot, fleet.Variable(uefi.GUID{1}, "BootOrder", []byte{1, 0}), []byte{1, 0}, uefi.Bound},
		"boot variable, whole":    {1, uefi.VariableBoot, variable, variable, uefi.Bound},
		"boot variable, other":    {1, uefi.VariableBoot, variable, []byte("x"), uefi.Mismatched},
		"separator":               {0, uefi.Separator, make([]byte, 4), make([]byte, 4), uefi.Bound},
		"separator, other":        {0, uefi.Separator, make([]byte, 4), []byte{255, 255, 255, 255}, uefi.Mismatched},
		"command":                 {8, uefi.IPL, []byte("kernel_cmdline: root=a\x00"), []byte("root=a"), uefi.Bound},
		"command with NUL":        {8, uefi.IPL, []byte("kernel_cmdline: root=a\x00"), []byte("root=a\x00"), uefi.Bound},
		"command, other":          {8, uefi.IPL, []byte("kernel_cmdline: root=a\x00"), []byte("root=b"), uefi.Mismatched},
		"systemd-boot":            {12, uefi.IPL, []byte("r\x00o\x00"), []byte("r\x00o\x00"), uefi.Bound},
		"systemd-boot, other":     {12, uefi.IPL, []byte("r\x00o\x00"), []byte("r"), uefi.Mismatched},
		"file name":               {9, uefi.IPL, []byte("/initrd\x00"), []byte("its content"), uefi.Hint},
		"image":                   {4, uefi.BootApplication, make([]byte, 32), []byte("image"), uefi.Hint},
		"action":                  {4, uefi.EFIAction, []byte("Exit"), []byte("Exit"), uefi.Bound},
		"action, other":           {4, uefi.EFIAction, []byte("Exit"), []byte("Enter"), uefi.Mismatched},
		"partition table":         {5, uefi.GPTEvent, []byte("table"), []byte("another"), uefi.Mismatched},
		"version":                 {0, uefi.SCRTMVersion, []byte("1"), []byte("2"), uefi.Mismatched},
		"post code, as it stands": {0, uefi.PostCode, []byte("ACPI"), []byte("ACPI"), uefi.Bound},
	} {
		l := fleet.NewBootLog(tpm.SHA1, tpm.SHA256)
		l.Event(c.pcr, c.kind, c.data, c.measured)
		f := facts(t, parse(t, l.Bytes()))[1]
		content, err := f.Content()
		if got := f.Binding(); got != c.want || (err != nil) != (c.want == uefi.Mismatched) || err != nil && content != nil {
			t.Errorf("%s: binding %v, want %v; content %v, %v", name, got, c.want, content, err)
		}
	}
	// A digest of another bank than the quote's counts too: the payload must be what every bank says.
	raw := chain().Bytes()
	log := parse(t, raw)
	sha1 := bytes.Index(raw, log.Events()[1].Digests[0].Value)
	if got := facts(t, parse(t, flip(raw, sha1)))[1].Binding(); got != uefi.Mismatched {
		t.Errorf("one bank of three disagrees: %v", got)
	}
	if _, err := facts(t, log)[0].Content(); !errors.Is(err, uefi.ErrNotMeasured) {
		t.Errorf("payload of EV_NO_ACTION: %v", err)
	}
}

func facts(t *testing.T, log *uefi.Log) (list []uefi.Fact) {
	t.Helper()
	p, err := uefi.Believe(log, tpm.SHA256)
	if err != nil {
		t.Fatal(err)
	}
	for f := range p.Events() {
		list = append(list, f)
	}
	return list
}

// TestAggregatesNeedTheirPCRs gives no boot aggregate over PCRs that were not quoted (NT-35).
func TestAggregatesNeedTheirPCRs(t *testing.T) {
	t.Parallel()
	l := chain()
	pcrs := quoted(t, l, tpm.SHA256, bootPCRs)
	for _, c := range []struct {
		mask tpm.Mask
		want int
	}{{bootPCRs, 2}, {0xFF, 1}, {0x7F, 0}, {0xFE, 0}} {
		p, _, err := uefi.Replay(parse(t, l.Bytes()), pcrs, c.mask)
		if err != nil {
			t.Fatal(err)
		}
		if got := p.Aggregates(); len(got) != c.want {
			t.Errorf("PCRs %v: %d aggregates, want %d", c.mask.PCRs(), len(got), c.want)
		}
	}
}

func TestDevicePaths(t *testing.T) {
	t.Parallel()
	node := func(kind, sub byte, data ...byte) []byte {
		return append([]byte{kind, sub, byte(4 + len(data)), 0}, data...)
	}
	file := node(4, 4, 'a', 0, '\\', 0, 'b', 0, 0, 0)
	disk := node(4, 1, slices.Concat([]byte{1, 0, 0, 0, 0, 8, 0, 0, 0, 0, 0, 0, 0, 16, 0, 0, 0, 0, 0, 0}, make([]byte, 16), []byte{2, 2})...)
	for want, raw := range map[string][]byte{
		"":                          {},
		"PciRoot(0x0)/Pci(0x2,0x1)": slices.Concat(node(2, 1, 0xD0, 0x41, 0x03, 0x0A, 0, 0, 0, 0), node(1, 1, 1, 2), node(0x7F, 0xFF)),
		`HD(1,GPT,00000000-0000-0000-0000-000000000000,0x800,0x1000)/File(a\b)`: slices.Concat(disk, file),
		"Path(3,99,0102)": node(3, 99, 1, 2),
		"Path(4,7,01)":    node(4, 7, 1),
		"0404ff00":        {4, 4, 255, 0},
		"04040000":        {4, 4, 0, 0},
	} {
		data := append(make([]byte, 24), byte(len(raw)), 0, 0, 0, 0, 0, 0, 0)
		l := fleet.NewBootLog(tpm.SHA256)
		l.Event(4, uefi.BootApplication, append(data, raw...), nil)
		image := parse(t, l.Bytes()).Events()[1].Content.(uefi.Object)
		if got, _ := image.Get("DevicePath"); got != want {
			t.Errorf("got %v, want %s", got, want)
		}
	}
}

func TestGUIDs(t *testing.T) {
	t.Parallel()
	const canonical, swapped = "8be4df61-93ca-11d2-aa0d-00e098032b8c", "61dfe48b-ca93-d211-aa0d-00e098032b8c"
	g, err := uefi.ParseGUID(canonical)
	if err != nil || g.String() != canonical || g.Swapped().String() != swapped || g[0] != 0x61 {
		t.Errorf("%v %v %x", g, err, g[:])
	}
	for _, bad := range []string{"", "8be4df61", canonical + "0", strings.Replace(canonical, "-", "0", 1), strings.Replace(canonical, "8", "g", 1)} {
		if _, err := uefi.ParseGUID(bad); err == nil {
			t.Errorf("%q is taken for a GUID", bad)
		}
	}
}

// TestDocument shows a log as tools do.
func TestDocument(t *testing.T) {
	t.Parallel()
	l := fleet.NewBootLog(tpm.SHA256)
	l.Event(8, uefi.IPL, []byte("kernel_cmdline: ro\x00"), []byte("ro"))
	document, err := parse(t, l.Bytes()).Document()
	if err != nil {
		t.Fatal(err)
	}
	text, err := json.Marshal(document)
	if err != nil {
		t.Fatal(err)
	}
	const want = `"EventType":"EV_IPL","DigestCount":1,"Digests":[{"AlgorithmId":"sha256","Digest":"` +
		`7ef9ec0cf2c4facafddd03ab96eca0939d6749b49952bd816f1e0cc6901941d5"}],"EventSize":19,"Event":{"String":"kernel_cmdline: ro"}}`
	if !strings.Contains(string(text), want) || !strings.HasPrefix(string(text), `{"version":2,"events":[{"EventNum":0,`) {
		t.Errorf("%s", text)
	}
}

// Example replays a log in software and shows what it says.
func Example() {
	l := fleet.NewBootLog(tpm.SHA256)
	l.Event(8, uefi.IPL, []byte("kernel_cmdline: ro\x00"), []byte("ro"))
	log, err := uefi.Parse(l.Bytes())
	if err != nil {
		fmt.Println(err)
		return
	}
	for _, e := range log.Events() {
		fmt.Println(e.Number, e.PCR, e.Type)
	}
	// Output:
	// 0 0 EV_NO_ACTION
	// 1 8 EV_IPL
}

// FuzzParse: whatever parses has bounded size, can be replayed and judged without a panic, and is stable.
func FuzzParse(f *testing.F) {
	f.Add(chain().Bytes())
	f.Add(fleet.NewLegacyBootLog().Bytes())
	legacy := fleet.NewLegacyBootLog()
	legacy.Event(4, uefi.IPL, []byte("boot\x00"), nil)
	f.Add(legacy.Bytes())
	hcrtm := fleet.NewBootLog(tpm.SHA384)
	hcrtm.HCRTM([]byte("x"))
	f.Add(hcrtm.Bytes())
	f.Fuzz(func(t *testing.T, raw []byte) {
		log, err := uefi.Parse(raw)
		if err != nil {
			return
		}
		size := 0
		for i, e := range log.Events() {
			size += len(e.Data)
			if e.Number != i || e.PCR < 0 || e.PCR >= uefi.PCRCount {
				t.Fatalf("event %d is numbered %d, PCR %d", i, e.Number, e.PCR)
			}
		}
		if size > len(raw) {
			t.Fatalf("%d bytes of data in a log of %d", size, len(raw))
		}
		if document, err := log.Document(); err == nil {
			if _, err := json.Marshal(document); err != nil {
				t.Fatal(err)
			}
		}
		for _, bank := range log.Banks() {
			p, err := uefi.Believe(log, bank)
			if err != nil {
				continue
			}
			for fact := range p.Events() {
				if content, err := fact.Content(); err != nil && content != nil {
					t.Fatal("content that is not proven")
				}
			}
		}
	})
}

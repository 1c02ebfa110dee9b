package ima

import (
	"bytes"
	"encoding/hex"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"

	"keylime/internal/fleet"
	"keylime/internal/recorded"
	"keylime/tpm"
)

// pcr10 is a TPM whose PCR 10 tests extend, in one bank.
type pcr10 struct {
	tpm  *fleet.SoftTPM
	ak   *tpm.Public
	bank tpm.Hash
}

func newPCR10(t testing.TB, bank tpm.Hash) *pcr10 {
	t.Helper()
	soft, err := fleet.Build(rand.NewChaCha8([32]byte{}), fleet.Model{Alg: "ecc256", Hash: bank})
	if err != nil {
		t.Fatal(err)
	}
	ak, err := tpm.ParsePublic(soft.AKPublic())
	if err != nil {
		t.Fatal(err)
	}
	return &pcr10{soft, ak, bank}
}

// measure extends the PCR as the kernel does with a line, computed by other means than the package's.
func (p *pcr10) measure(t testing.TB, line []byte) {
	t.Helper()
	var parser Parser
	e, err := parser.Parse(line)
	if err != nil {
		t.Fatal(err)
	}
	h := p.bank.Crypto().New()
	h.Write(templateData(e))
	own := h.Sum(nil)
	if bytes.Equal(e.TemplateHash, make([]byte, 20)) {
		own = bytes.Repeat([]byte{0xFF}, p.bank.Size())
	}
	if err := p.tpm.Extend(tpm.PCRIma, map[tpm.Hash][]byte{p.bank: own}); err != nil {
		t.Fatal(err)
	}
}

func (p *pcr10) quote(t testing.TB) tpm.VerifiedPCRs {
	t.Helper()
	mask := tpm.MaskOf(tpm.PCRIma)
	q, err := p.tpm.Quote([]byte("nonce"), mask, p.bank)
	if err != nil {
		t.Fatal(err)
	}
	pcrs, err := tpm.VerifyQuote(p.ak, q, tpm.Expected{Nonce: []byte("nonce"), Mask: mask, Hash: p.bank})
	if err != nil {
		t.Fatal(err)
	}
	return pcrs
}

// list joins lines as the kernel shows them.
func list(lines ...[]byte) []byte {
	return append(bytes.Join(lines, lineFeed), '\n')
}

func ignore(*Entry, error) {}

func TestReplayMatchesQuotes(t *testing.T) {
	t.Parallel()
	violation := []byte("10 " + hex.EncodeToString(make([]byte, 20)) + " ima-ng sha1:" + hex.EncodeToString(make([]byte, 20)) + " /var/log/x")
	lines := append(genuine(t), violation)
	for _, bank := range []tpm.Hash{tpm.SHA1, tpm.SHA256, tpm.SHA384} {
		t.Run(bank.String(), func(t *testing.T) {
			t.Parallel()
			p := newPCR10(t, bank)
			for _, line := range lines {
				p.measure(t, line)
			}
			want := Replayed{Matched: true, Proven: len(lines), Lines: len(lines), Entries: len(lines)}
			visited := 0
			got := Replay(list(lines...), nil, p.quote(t), Format{TemplateHash: tpm.SHA1}, func(e *Entry, err error) {
				visited++
				if err != nil || e.Line != visited || !bytes.Equal(e.Text, lines[visited-1]) {
					t.Errorf("visit %d: %+v, %v", visited, e, err)
				}
				if isViolation := visited == len(lines); e.Violation() != isViolation || !isViolation && !e.TemplateHashMatches() {
					t.Errorf("line %d: violation %v, template hash matches %v", visited, e.Violation(), e.TemplateHashMatches())
				}
			})
			if got != want || visited != len(lines) {
				t.Errorf("got %+v after %d visits, want %+v", got, visited, want)
			}
		})
	}
}

// A quote may be older than the list: what it covers is a part of it.
func TestReplayFindsTheQuotedPart(t *testing.T) {
	t.Parallel()
	lines := genuine(t)
	p := newPCR10(t, tpm.SHA256)
	for covered := 0; covered <= len(lines); covered++ {
		if covered > 0 {
			p.measure(t, lines[covered-1])
		}
		got := Replay(list(lines...), nil, p.quote(t), Format{TemplateHash: tpm.SHA1}, ignore)
		if want := (Replayed{true, covered, len(lines), len(lines)}); got != want {
			t.Errorf("%d lines covered: got %+v", covered, got)
		}
	}
	if got := Replay(list(lines[1:]...), nil, p.quote(t), Format{TemplateHash: tpm.SHA1}, ignore); got.Matched {
		t.Error("a list without its first line matches")
	}
}

// Replaying N+M lines is replaying N and going on with M.
func TestReplayGoesOn(t *testing.T) {
	t.Parallel()
	lines := genuine(t)
	p := newPCR10(t, tpm.SHA384)
	var middles [][]byte
	for _, line := range lines {
		middles = append(middles, p.tpm.PCR(tpm.SHA384, tpm.PCRIma))
		p.measure(t, line)
	}
	quoted := p.quote(t)
	for n, middle := range middles {
		got := Replay(list(lines[n:]...), middle, quoted, Format{TemplateHash: tpm.SHA1}, ignore)
		if want := (Replayed{true, len(lines) - n, len(lines) - n, len(lines) - n}); got != want {
			t.Errorf("from line %d: got %+v", n, got)
		}
	}
}

// NT-21: any change of what is measured breaks the replay.
func TestReplayNoticesEachChange(t *testing.T) {
	t.Parallel()
	lines := genuine(t)
	p := newPCR10(t, tpm.SHA256)
	for _, line := range lines {
		p.measure(t, line)
	}
	quoted := p.quote(t)
	for n, line := range lines {
		for i := range line {
			changed := slices.Clone(lines)
			changed[n] = slices.Clone(line)
			changed[n][i] ^= 1
			refused := false
			got := Replay(list(changed...), nil, quoted, Format{TemplateHash: tpm.SHA1}, func(e *Entry, err error) {
				refused = refused || err != nil || !e.TemplateHashMatches() || e.PCR != tpm.PCRIma
			})
			// The template hash is what a line says of itself: it is compared, and not part of what is extended.
			inTemplateHash := i >= len("10 ") && i < len("10 ")+40
			if got.Matched && !(inTemplateHash && refused) {
				t.Fatalf("line %d, byte %d changed: the list still matches", n+1, i)
			}
		}
	}
}

// HARDEN 1: a template hash of ones is no mark of a violation, and zeros only mark one that the TPM knows of.
func TestOnlyTrueViolationsReplay(t *testing.T) {
	t.Parallel()
	line := genuine(t)[1]
	hash := line[3:43]
	for _, c := range []struct {
		digits            string
		matches, accepted bool
	}{
		{string(hash), true, true},
		{"ffffffffffffffffffffffffffffffffffffffff", true, false},
		{"0000000000000000000000000000000000000000", false, true},
		{"00", true, false},
	} {
		p := newPCR10(t, tpm.SHA256)
		p.measure(t, line)
		forged := bytes.Replace(line, hash, []byte(c.digits), 1)
		accepted := false
		got := Replay(list(forged), nil, p.quote(t), Format{TemplateHash: tpm.SHA1}, func(e *Entry, err error) {
			accepted = e.Violation() || e.TemplateHashMatches()
		})
		if got.Matched != c.matches || accepted != c.accepted {
			t.Errorf("%s: matched %v, accepted %v", c.digits, got.Matched, accepted)
		}
	}
}

func TestReplayPassesOverBadLines(t *testing.T) {
	t.Parallel()
	lines := genuine(t)
	p := newPCR10(t, tpm.SHA256)
	p.measure(t, lines[0])
	p.measure(t, lines[1])
	other := append([]byte("11"), lines[2][2:]...) // of another PCR
	text := list(lines[0], nil, []byte("garbage"), other, lines[1], nil)
	var bad []string
	got := Replay(text, nil, p.quote(t), Format{TemplateHash: tpm.SHA1}, func(e *Entry, err error) {
		if err != nil {
			bad = append(bad, fmt.Sprintf("line %d %q: %v", e.Line, e.Text, err))
		} else if e.PCR != tpm.PCRIma {
			bad = append(bad, fmt.Sprintf("line %d PCR %d", e.Line, e.PCR))
		}
	})
	if want := (Replayed{true, 5, 5, 4}); got != want {
		t.Errorf("got %+v, want %+v", got, want)
	}
	want := []string{
		`line 3 "garbage": want PCR, template hash, template name and template data, with one space between them`,
		"line 4 PCR 11",
	}
	if !slices.Equal(bad, want) {
		t.Errorf("got %q, want %q", bad, want)
	}
}

func TestReplayWithoutPCR10ProvesNothing(t *testing.T) {
	t.Parallel()
	if got := Replay(nil, nil, tpm.VerifiedPCRs{}, Format{TemplateHash: tpm.SHA1}, ignore); got != (Replayed{}) {
		t.Errorf("got %+v", got)
	}
}

// The list of a machine's boot, against the value that other implementations compute.
func TestReplayRecordedBoot(t *testing.T) {
	t.Parallel()
	text := recorded.File(t, "ima/boot-826-ima-ng-sha1")
	for bank, want := range map[tpm.Hash]string{
		tpm.SHA1:   "82231c67a69da98dc5b3aa10f6343d33109225fc",
		tpm.SHA256: "c4a065637fc6a7c55f2811dd06cb45dd037133be2b3dc5c3e6fbe6bf061db724",
	} {
		p := newPCR10(t, bank)
		for line := range bytes.Lines(text) {
			p.measure(t, bytes.TrimSuffix(line, lineFeed))
		}
		if got := hex.EncodeToString(p.tpm.PCR(bank, tpm.PCRIma)); got != want {
			t.Fatalf("the test itself computes %s, want %s", got, want)
		}
		got := Replay(text, nil, p.quote(t), Format{TemplateHash: tpm.SHA1}, func(e *Entry, err error) {
			if err != nil || !e.TemplateHashMatches() {
				t.Errorf("line %d: %v", e.Line, err)
			}
		})
		if got != (Replayed{true, 826, 826, 826}) {
			t.Errorf("%v: got %+v", bank, got)
		}
	}
}

// Other lists of the corpus: how many of their lines are entries whose template hash is right.
func TestRecordedListsParse(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		log       tpm.Hash
		good, bad int
	}{
		"ima-buf-11":        {tpm.SHA1, 11, 0},
		"ima-ng-buf-sha256": {tpm.SHA1, 5, 0},
		"ima-sig-4":         {tpm.SHA1, 3, 1}, // one lost its trailing space
		"ima-log-sha1":      {tpm.SHA1, 2, 0},
		"ima-log-sha256":    {tpm.SHA1, 2, 0},
		"ima-log-sha384":    {tpm.SHA1, 2, 0},
		"ima-log-sha512":    {tpm.SHA1, 2, 0},
	} {
		x := newExtender(tpm.SHA256, c.log, nil)
		good, bad := 0, 0
		var p Parser
		for line := range bytes.Lines(recorded.File(t, "ima/"+name)) {
			e, err := p.Parse(bytes.TrimSuffix(line, lineFeed))
			if err != nil {
				bad++
				continue
			}
			x.extend(e)
			if !e.Violation() && !e.TemplateHashMatches() || e.Template == "ima-buf" && !e.BufferMatches() {
				t.Errorf("%s: %q is not right", name, clip(line))
			}
			good++
		}
		if good != c.good || bad != c.bad {
			t.Errorf("%s: %d good and %d bad lines, want %d and %d", name, good, bad, c.good, c.bad)
		}
	}
}

// Lists whose template hashes are of another algorithm, or whose files' digests are of none that is known: they parse,
// for the kernel may use what it likes, and the template hashes are found to be wrong.
func TestRecordedListsOfOtherAlgorithms(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"ima-log-sm3_256", "ima-log-unknown"} {
		x := newExtender(tpm.SHA256, tpm.SHA256, nil)
		var p Parser
		violations, wrong := 0, 0
		for line := range bytes.Lines(recorded.File(t, "ima/"+name)) {
			e, err := p.Parse(bytes.TrimSuffix(line, lineFeed))
			if err != nil {
				t.Fatalf("%s: %v", name, err)
			}
			switch x.extend(e); {
			case e.Violation():
				violations++
			case !e.TemplateHashMatches():
				wrong++
			}
		}
		if violations != 1 || wrong != 1 {
			t.Errorf("%s: %d violations and %d wrong template hashes, want one of each", name, violations, wrong)
		}
	}
}

package tpm_test

import (
	"bytes"
	"crypto/rand"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"slices"
	"strings"
	"testing"

	"keylime/internal/fleet"
	"keylime/tpm"
)

// nonce is the qualifying data of the quotes made here.
var nonce = []byte("0123456789abcdefghij")

// attester is a software TPM and its parsed AK.
type attester struct {
	*fleet.SoftTPM
	ak *tpm.Public
}

func newAttester(t testing.TB, m fleet.Model) attester {
	t.Helper()
	soft, err := fleet.Build(rand.Reader, m)
	if err != nil {
		t.Fatal(err)
	}
	return attester{SoftTPM: soft, ak: mustParse(t, soft.AKPublic())}
}

// quote makes a genuine quote over mask.
func (a attester) quote(t testing.TB, mask tpm.Mask, bank tpm.Hash) tpm.Quote {
	t.Helper()
	q, err := a.Quote(nonce, mask, bank)
	if err != nil {
		t.Fatal(err)
	}
	return q
}

// forge signs any attestation with the AK, as a TPM would not.
func (a attester) forge(t testing.TB, attest, blob []byte) tpm.Quote {
	t.Helper()
	sig, err := a.SignAttest(attest)
	if err != nil {
		t.Fatal(err)
	}
	return tpm.Quote{Attest: attest, Signature: sig, PCRBlob: blob}
}

func TestQuotesOfEveryAKVerify(t *testing.T) {
	t.Parallel()
	for _, m := range []fleet.Model{
		{Alg: "rsa2048", Sign: "rsassa", Hash: tpm.SHA1},
		{Alg: "rsa2048", Sign: "rsassa", Hash: tpm.SHA256},
		{Alg: "rsa2048", Sign: "rsapss", Hash: tpm.SHA384},
		{Alg: "rsa3072", Sign: "rsapss", Hash: tpm.SHA256},
		{Alg: "ecc256", Hash: tpm.SHA256},
		{Alg: "ecc384", Hash: tpm.SHA384},
		{Alg: "ecc521", Hash: tpm.SHA256},
	} {
		t.Run(m.Alg+m.Sign+m.Hash.String(), func(t *testing.T) {
			t.Parallel()
			a := newAttester(t, m)
			mask := tpm.MaskOf(0, 1, 2, 3, 4, 5, 6, 7, 10, 17, 23)
			q := a.quote(t, mask, m.Hash)
			parsed, err := tpm.ParseQuote(q.String())
			if err != nil {
				t.Fatal(err)
			}
			pcrs, err := tpm.VerifyQuote(a.ak, parsed, tpm.Expected{Nonce: nonce, Mask: mask, Hash: m.Hash})
			if err != nil {
				t.Fatal(err)
			}
			if pcrs.Bank() != m.Hash || pcrs.Mask() != mask {
				t.Errorf("covers %v of %v", pcrs.Mask(), pcrs.Bank())
			}
			for i := range 24 {
				got, ok := pcrs.PCR(i)
				if ok != mask.Has(i) || ok && !bytes.Equal(got, a.PCR(m.Hash, i)) {
					t.Errorf("PCR %d = %x, %v", i, got, ok)
				}
			}
			if _, ok := pcrs.PCR(-1); ok {
				t.Error("there is a PCR -1")
			}
		})
	}
}

// NT-20: the signature is another key's.
func TestQuoteOfAnotherKeyFails(t *testing.T) {
	t.Parallel()
	a, b := newAttester(t, fleet.Model{Alg: "ecc256"}), newAttester(t, fleet.Model{Alg: "ecc256"})
	c := newAttester(t, fleet.Model{Alg: "rsa2048"})
	mask := tpm.MaskOf(16)
	want := tpm.Expected{Nonce: nonce, Mask: mask, Hash: tpm.SHA256}
	for name, ak := range map[string]*tpm.Public{"same algorithm": b.ak, "other algorithm": c.ak} {
		if _, err := tpm.VerifyQuote(ak, a.quote(t, mask, tpm.SHA256), want); err == nil {
			t.Errorf("%s: verified", name)
		}
	}
}

// NT-21: any changed byte of attestation, signature or PCR blob.
func TestFlippedByteIsNeverAccepted(t *testing.T) {
	t.Parallel()
	for _, alg := range []string{"rsa2048", "ecc256"} {
		t.Run(alg, func(t *testing.T) {
			t.Parallel()
			a := newAttester(t, fleet.Model{Alg: alg})
			mask := tpm.MaskOf(10, 16)
			want := tpm.Expected{Nonce: nonce, Mask: mask, Hash: tpm.SHA256}
			q := a.quote(t, mask, tpm.SHA256)
			if _, err := tpm.VerifyQuote(a.ak, q, want); err != nil {
				t.Fatal(err)
			}
			for part, bytes := range [][]byte{q.Attest, q.Signature, q.PCRBlob} {
				for i := range bytes {
					for _, flip := range []byte{0x01, 0x80, 0xFF} {
						bytes[i] ^= flip
						if _, err := tpm.VerifyQuote(a.ak, q, want); err == nil {
							t.Errorf("part %d, byte %d ^ %#x: accepted", part, i, flip)
						}
						bytes[i] ^= flip
					}
				}
				for n := range len(bytes) {
					cut := []tpm.Quote{q, q, q}[part]
					*[]*[]byte{&cut.Attest, &cut.Signature, &cut.PCRBlob}[part] = bytes[:n]
					if _, err := tpm.VerifyQuote(a.ak, cut, want); err == nil {
						t.Errorf("part %d cut to %d bytes: accepted", part, n)
					}
				}
			}
		})
	}
}

// NT-22: a genuine quote over resettable PCRs whose blob says that they are others.
func TestRelabelledPCRsFail(t *testing.T) {
	t.Parallel()
	a := newAttester(t, fleet.Model{Alg: "ecc256"})
	genuine := a.quote(t, tpm.MaskOf(16, 23), tpm.SHA256)
	values := [][]byte{a.PCR(tpm.SHA256, 16), a.PCR(tpm.SHA256, 23)}
	for _, c := range []struct {
		name  string
		label tpm.Mask
		want  tpm.Mask
	}{
		{"as what was asked for", tpm.MaskOf(7, 10), tpm.MaskOf(7, 10)},
		{"of which one was asked for", tpm.MaskOf(10, 16), tpm.MaskOf(10, 16)},
		{"though the right ones were asked for", tpm.MaskOf(7, 10), tpm.MaskOf(16, 23)},
	} {
		q := genuine
		q.PCRBlob = tpm.MarshalPCRBlob(tpm.SHA256, c.label, values)
		if _, err := tpm.VerifyQuote(a.ak, q, tpm.Expected{Nonce: nonce, Mask: c.want, Hash: tpm.SHA256}); err == nil {
			t.Errorf("relabelled %s: accepted", c.name)
		}
	}
}

// NT-22: the blob is of another bank than the quote.
func TestBlobOfAnotherBankFails(t *testing.T) {
	t.Parallel()
	a := newAttester(t, fleet.Model{Alg: "ecc256"})
	mask := tpm.MaskOf(16)
	q := a.quote(t, mask, tpm.SHA256)
	q.PCRBlob = tpm.MarshalPCRBlob(tpm.SHA384, mask, [][]byte{a.PCR(tpm.SHA384, 16)})
	if _, err := tpm.VerifyQuote(a.ak, q, tpm.Expected{Nonce: nonce, Mask: mask, Hash: tpm.SHA256}); err == nil {
		t.Error("accepted")
	}
}

// NT-24: the quote covers less than was asked for, and the error says what.
func TestMissingPCRsAreNamed(t *testing.T) {
	t.Parallel()
	a := newAttester(t, fleet.Model{Alg: "ecc256"})
	for _, c := range []struct {
		name           string
		quoted, wanted tpm.Mask
		missing        []int
	}{
		{"PCR 10", tpm.MaskOf(16), tpm.MaskOf(10, 16), []int{10}},
		{"a boot PCR", tpm.MaskOf(0, 1, 16), tpm.MaskOf(0, 1, 7, 16), []int{7}},
		{"data PCR", tpm.MaskOf(10), tpm.MaskOf(10, 16), []int{16}},
		{"all", 0, tpm.MaskOf(10, 16), []int{10, 16}},
		{"one, and another is too many", tpm.MaskOf(10, 23), tpm.MaskOf(10, 16), []int{16}},
	} {
		want := tpm.Expected{Nonce: nonce, Mask: c.wanted, Hash: tpm.SHA256}
		_, err := tpm.VerifyQuote(a.ak, a.quote(t, c.quoted, tpm.SHA256), want)
		var missing *tpm.MissingPCRsError
		if !errors.As(err, &missing) || !slices.Equal(missing.PCRs, c.missing) {
			t.Errorf("%s: %v, want missing PCRs %v", c.name, err, c.missing)
		}
	}

	t.Run("only in a genuine, fresh quote", func(t *testing.T) {
		want := tpm.Expected{Nonce: []byte("another nonce"), Mask: tpm.MaskOf(10, 16), Hash: tpm.SHA256}
		var missing *tpm.MissingPCRsError
		if _, err := tpm.VerifyQuote(a.ak, a.quote(t, tpm.MaskOf(16), tpm.SHA256), want); err == nil || errors.As(err, &missing) {
			t.Errorf("stale quote: %v", err)
		}
		want.Nonce = nonce
		q := a.quote(t, tpm.MaskOf(16), tpm.SHA256)
		q.Signature[len(q.Signature)-1] ^= 1
		if _, err := tpm.VerifyQuote(a.ak, q, want); err == nil || errors.As(err, &missing) {
			t.Errorf("unsigned quote: %v", err)
		}
	})
}

func TestMorePCRsThanAskedForFail(t *testing.T) {
	t.Parallel()
	a := newAttester(t, fleet.Model{Alg: "ecc256"})
	q := a.quote(t, tpm.MaskOf(10, 16, 23), tpm.SHA256)
	if _, err := tpm.VerifyQuote(a.ak, q, tpm.Expected{Nonce: nonce, Mask: tpm.MaskOf(10, 16), Hash: tpm.SHA256}); err == nil {
		t.Error("accepted")
	}
}

// NT-25: the nonce must be the exact bytes.
func TestOtherNoncesFail(t *testing.T) {
	t.Parallel()
	a := newAttester(t, fleet.Model{Alg: "ecc256"})
	mask := tpm.MaskOf(16)
	decoded, err := base64.StdEncoding.DecodeString(string(nonce))
	if err != nil {
		t.Fatal(err)
	}
	for name, qualifying := range map[string][]byte{
		"other":     []byte("9123456789abcdefghij"),
		"empty":     {},
		"truncated": nonce[:19],
		"decoded":   decoded,
		"encoded":   []byte(base64.StdEncoding.EncodeToString(nonce)),
		"extended":  append(bytes.Clone(nonce), 'k'),
		"with NUL":  append(bytes.Clone(nonce), 0),
	} {
		q, err := a.Quote(qualifying, mask, tpm.SHA256)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := tpm.VerifyQuote(a.ak, q, tpm.Expected{Nonce: nonce, Mask: mask, Hash: tpm.SHA256}); err == nil {
			t.Errorf("nonce %s: accepted", name)
		}
	}
}

// NT-24, NT-25: an expectation that anything or nothing meets is an error, whatever the quote.
func TestExpectationMustBeComplete(t *testing.T) {
	t.Parallel()
	a := newAttester(t, fleet.Model{Alg: "ecc256"})
	for name, want := range map[string]tpm.Expected{
		"no nonce":       {Mask: tpm.MaskOf(16), Hash: tpm.SHA256},
		"no PCRs":        {Nonce: nonce, Hash: tpm.SHA256},
		"PCR 24":         {Nonce: nonce, Mask: 1 << 24, Hash: tpm.SHA256},
		"no hash":        {Nonce: nonce, Mask: tpm.MaskOf(16)},
		"unknown hash":   {Nonce: nonce, Mask: tpm.MaskOf(16), Hash: 0x0012},
		"nothing at all": {},
	} {
		q, err := a.Quote(want.Nonce, want.Mask, tpm.SHA256)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := tpm.VerifyQuote(a.ak, q, want); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

// NT-28: signed by the AK, but not a quote by a TPM.
func TestOtherAttestationsFail(t *testing.T) {
	t.Parallel()
	a := newAttester(t, fleet.Model{Alg: "ecc256"})
	mask := tpm.MaskOf(16)
	want := tpm.Expected{Nonce: nonce, Mask: mask, Hash: tpm.SHA256}
	genuine := a.quote(t, mask, tpm.SHA256)
	const selectionAt = 69 + 20 // behind the fixed fields, a name of 34 bytes and a nonce of 20
	for _, c := range []struct {
		name   string
		change func([]byte) []byte
		reason string
	}{
		{"certify", func(b []byte) []byte { binary.BigEndian.PutUint16(b[4:], 0x8017); return b }, "type 0x8017"},
		{"time", func(b []byte) []byte { binary.BigEndian.PutUint16(b[4:], 0x8019); return b }, "type 0x8019"},
		{"creation", func(b []byte) []byte { binary.BigEndian.PutUint16(b[4:], 0x801A); return b }, "type 0x801a"},
		{"NV", func(b []byte) []byte { binary.BigEndian.PutUint16(b[4:], 0x8014); return b }, "type 0x8014"},
		{"magic 0", func(b []byte) []byte { clear(b[:4]); return b }, "magic"},
		{"no selection", func(b []byte) []byte {
			binary.BigEndian.PutUint32(b[selectionAt:], 0)
			return slices.Delete(b, selectionAt+4, selectionAt+10)
		}, "0 PCR selections"},
		{"two selections", func(b []byte) []byte {
			binary.BigEndian.PutUint32(b[selectionAt:], 2)
			return slices.Insert(b, selectionAt+10, b[selectionAt+4:selectionAt+10]...)
		}, "2 PCR selections"},
		{"selection of 2 bytes", func(b []byte) []byte {
			b[selectionAt+6] = 2
			return slices.Delete(b, selectionAt+7, selectionAt+8)
		}, "sizeofSelect 2"},
		{"selection of 4 bytes", func(b []byte) []byte {
			b[selectionAt+6] = 4
			return slices.Insert(b, selectionAt+10, 0)
		}, "sizeofSelect 4"},
		{"unknown bank", func(b []byte) []byte { b[selectionAt+5] = 0x12; return b }, "unknown hash"},
		{"safe of 2", func(b []byte) []byte { b[selectionAt-9] = 2; return b }, "safe is 2"},
		{"endless nonce", func(b []byte) []byte { b[42] = 0xFF; return b }, "at most"},
		{"digest longer than any", func(b []byte) []byte { b[selectionAt+11] = 65; return b }, "at most 64"},
		{"trailing byte", func(b []byte) []byte { return append(b, 0) }, "1 bytes follow"},
		{"last byte short", func(b []byte) []byte { return b[:len(b)-1] }, "cut short"},
		{"nothing", func([]byte) []byte { return nil }, "cut short"},
	} {
		q := a.forge(t, c.change(bytes.Clone(genuine.Attest)), genuine.PCRBlob)
		if _, err := tpm.VerifyQuote(a.ak, q, want); err == nil || !strings.Contains(err.Error(), c.reason) {
			t.Errorf("%s: %v, want an error with %q", c.name, err, c.reason)
		}
	}
	if _, err := tpm.VerifyQuote(a.ak, a.forge(t, genuine.Attest, genuine.PCRBlob), want); err != nil {
		t.Errorf("unchanged: %v", err)
	}
}

// NT-28: the right magic means nothing from a key that signs anything.
func TestQuoteOfUnrestrictedKeyFails(t *testing.T) {
	t.Parallel()
	const restricted = 1 << 16
	a := newAttester(t, fleet.Model{Alg: "ecc256", Attributes: fleet.AKAttributes &^ restricted})
	mask := tpm.MaskOf(16)
	_, err := tpm.VerifyQuote(a.ak, a.quote(t, mask, tpm.SHA256), tpm.Expected{Nonce: nonce, Mask: mask, Hash: tpm.SHA256})
	if !errors.Is(err, tpm.ErrKeyUnfit) {
		t.Errorf("%v, want ErrKeyUnfit", err)
	}
}

// NT-30: the hash asked for is the hash of signature and bank.
func TestHashDowngradeFails(t *testing.T) {
	t.Parallel()
	old := newAttester(t, fleet.Model{Alg: "ecc256", Hash: tpm.SHA1})
	now := newAttester(t, fleet.Model{Alg: "ecc256", Hash: tpm.SHA256})
	mask := tpm.MaskOf(16)
	for _, c := range []struct {
		name string
		ak   *tpm.Public
		q    tpm.Quote
		want tpm.Hash
	}{
		{"SHA-1 signature and bank", old.ak, old.quote(t, mask, tpm.SHA1), tpm.SHA256},
		{"SHA-1 signature", old.ak, old.quote(t, mask, tpm.SHA256), tpm.SHA256},
		{"SHA-1 bank", now.ak, now.quote(t, mask, tpm.SHA1), tpm.SHA256},
		{"SHA-1 bank, asked for", now.ak, now.quote(t, mask, tpm.SHA1), tpm.SHA1},
		{"another bank", now.ak, now.quote(t, mask, tpm.SHA384), tpm.SHA384},
	} {
		if _, err := tpm.VerifyQuote(c.ak, c.q, tpm.Expected{Nonce: nonce, Mask: mask, Hash: c.want}); err == nil {
			t.Errorf("%s: accepted", c.name)
		}
	}
	q := now.quote(t, mask, tpm.SHA256)
	binary.BigEndian.PutUint16(q.Signature[2:], uint16(tpm.SHA1))
	if _, err := tpm.VerifyQuote(now.ak, q, tpm.Expected{Nonce: nonce, Mask: mask, Hash: tpm.SHA1}); err == nil {
		t.Error("a signature that calls itself SHA-1 was accepted")
	}
}

func TestParseQuoteIsStrict(t *testing.T) {
	t.Parallel()
	const good = "rAQ==:Ag==:Aw=="
	if q, err := tpm.ParseQuote(good); err != nil || q.String() != good {
		t.Fatalf("%q: %v, %v", good, q, err)
	}
	for _, text := range []string{
		"",
		"r",
		"AQ==:Ag==:Aw==",
		"dAQ==:Ag==:Aw==",
		"rAQ==:Ag==",
		"rAQ==:Ag==:Aw==:BA==",
		"rAQ==:Ag==:Aw==:",
		"rAQ==:Ag==:Aw==\n",
		"rAQ=\n=:Ag==:Aw==",
		"rAR==:Ag==:Aw==", // trailing bits set
		"rAQ:Ag:Aw",       // no padding
		"rAQ==:Ag==:A-==",
		"r AQ==:Ag==:Aw==",
		"r" + strings.Repeat("A", 8192) + ":Ag==:Aw==",
	} {
		if _, err := tpm.ParseQuote(text); err == nil {
			t.Errorf("%.40q: accepted", text)
		}
	}
}

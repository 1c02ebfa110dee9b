package snp

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha512"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"math/big"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-sev-guest/abi"
	"github.com/google/go-sev-guest/proto/sevsnp"
	"github.com/google/go-sev-guest/verify"
	"github.com/google/go-sev-guest/verify/testdata"
	"github.com/google/go-sev-guest/verify/trust"

	"keylime/internal/fleet"
)

var processors = sync.OnceValues(func() (map[Product]*fleet.Processor, error) {
	made := map[Product]*fleet.Processor{}
	for _, p := range Products() {
		var err error
		if made[p], err = fleet.NewProcessor(string(p)); err != nil {
			return nil, err
		}
	}
	return made, nil
})

func processor(t testing.TB, p Product) (*fleet.Processor, Chain, *x509.Certificate) {
	t.Helper()
	all, err := processors()
	if err != nil {
		t.Fatal(err)
	}
	chain, err := ParseChain(p, all[p].Roots)
	if err != nil {
		t.Fatal(err)
	}
	return all[p], chain, certificate(t, all[p].VCEK)
}

func certificate(t testing.TB, der []byte) *x509.Certificate {
	t.Helper()
	c, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func report(t testing.TB, p *fleet.Processor, change func([]byte)) Report {
	t.Helper()
	raw, err := p.Report([64]byte{1, 2, 3}, change)
	if err != nil {
		t.Fatal(err)
	}
	r, err := ParseReport(raw)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func TestReportsOfEachProduct(t *testing.T) {
	t.Parallel()
	for _, p := range Products() {
		soft, chain, vcek := processor(t, p)
		r := report(t, soft, nil)
		claims, err := chain.Verify(r, vcek, time.Now())
		if err != nil {
			t.Errorf("%s: %v", p, err)
			continue
		}
		want := map[Product][4]uint8{Milan: {3, 1, 21, 209}, Genoa: {3, 1, 21, 209}, Turin: {3, 1, 4, 72}}[p]
		if got := [4]uint8{claims.TCBBootloader, claims.TCBTEE, claims.TCBSNP, claims.TCBMicrocode}; got != want {
			t.Errorf("%s: firmware %v, want %v", p, got, want)
		}
		if said, ok := r.Product(); !ok || said != p {
			t.Errorf("the report of a %s says %s", p, said)
		}
	}
}

func TestClaimsAreThoseOfTheRESTAPI(t *testing.T) {
	t.Parallel()
	soft, chain, vcek := processor(t, Milan)
	claims, err := chain.Verify(report(t, soft, nil), vcek, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	text, err := json.Marshal(claims)
	if err != nil {
		t.Fatal(err)
	}
	var got map[string]any
	if err := json.Unmarshal(text, &got); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]any{
		"platform_smt_enabled": true, "platform_tsme_enabled": false,
		"reported_tcb_bootloader": 3.0, "reported_tcb_tee": 1.0, "reported_tcb_snp": 21.0, "reported_tcb_microcode": 209.0,
		"policy_abi_major": 1.0, "policy_abi_minor": 51.0,
		"policy_smt_allowed": true, "policy_migrate_ma": false, "policy_debug_allowed": false, "policy_single_socket": false,
	} {
		if got[name] != want {
			t.Errorf("%s: %v, want %v", name, got[name], want)
		}
	}
	for name, size := range map[string]int{"measurement": 48, "report_data": 64, "host_data": 32} {
		if list, _ := got[name].([]any); len(list) != size {
			t.Errorf("%s: %v, want a list of %d numbers", name, got[name], size)
		}
	}
	if !strings.Contains(string(text), `"report_data":[1,2,3,0,`) || len(got) != 15 {
		t.Errorf("claims %s", text)
	}
}

// HARDEN 18: only a processor's own key, certified by the trusted chain for this chip and firmware, counts.
func TestRefusedReports(t *testing.T) {
	t.Parallel()
	soft, chain, vcek := processor(t, Milan)
	_, genoa, _ := processor(t, Genoa)
	stranger, err := fleet.NewProcessor("Milan")
	if err != nil {
		t.Fatal(err)
	}
	amd, err := AMD(Milan)
	if err != nil {
		t.Fatal(err)
	}
	good := report(t, soft, nil)
	tampered := report(t, soft, nil)
	tampered.raw[atMeasurement] ^= 1
	for name, c := range map[string]struct {
		chain  Chain
		report Report
		vcek   *x509.Certificate
		now    time.Time
		want   string
	}{
		"a certificate of nobody's":   {chain, good, certificate(t, stranger.VCEK), time.Now(), "not vouched for"},
		"another chain":               {amd, good, vcek, time.Now(), "not vouched for"},
		"the chain of other products": {genoa, good, vcek, time.Now(), "from a processor of Milan"},
		"an expired certificate":      {chain, good, vcek, time.Now().Add(48 * time.Hour), "not vouched for"},
		"a report that was changed":   {chain, tampered, vcek, time.Now(), "did not sign"},
		"other firmware":              {chain, report(t, soft, func(b []byte) { b[atReportedTCB]-- }), vcek, time.Now(), "is for firmware 0.3.1.21.209"},
		"another chip":                {chain, report(t, soft, func(b []byte) { b[atChipID] ^= 1 }), vcek, time.Now(), "another processor"},
		"an authority in its place":   {chain, good, certificate(t, pemDER(t, soft.Roots)), time.Now(), "1.3.6.1.4.1.3704"},
	} {
		claims, err := c.chain.Verify(c.report, c.vcek, c.now)
		if err == nil || !strings.Contains(err.Error(), c.want) || claims.Measurement != nil {
			t.Errorf("%s: got %v, want an error with %q", name, err, c.want)
		}
	}
	if _, err := chain.Verify(tampered, vcek, time.Now()); !errors.Is(err, ErrSignature) {
		t.Errorf("a bad signature is told as %v", err)
	}
	// A host that hides its chips has reports that name none; firmware and signature still count.
	if _, err := chain.Verify(report(t, soft, func(b []byte) { clear(b[atChipID : atChipID+64]) }), vcek, time.Now()); err != nil {
		t.Errorf("a hidden chip: %v", err)
	}
}

func TestMalformedReports(t *testing.T) {
	t.Parallel()
	soft, _, _ := processor(t, Milan)
	good, err := soft.Report([64]byte{}, nil)
	if err != nil {
		t.Fatal(err)
	}
	with := func(at int, value byte) []byte {
		b := bytes.Clone(good)
		b[at] = value
		return b
	}
	for _, c := range []struct {
		raw  []byte
		want string
	}{
		{nil, "0 bytes"},
		{good[:0x188], "392 bytes, want 1184"}, // what is signed is missing
		{append(bytes.Clone(good), 0), "1185 bytes"},
		{with(atVersion, 1), "version 1"},
		{with(atVersion, 6), "version 6"},
		{with(atAlgorithm, 2), "algorithm 2"},
		{with(atSigner, 1<<2), "VLEK"},
		{with(atSigner, 7<<2), "key 7"},
		{with(atSignature+60, 1), "none of P-384"},
		{with(atSignature+scalarSize+60, 1), "none of P-384"},
	} {
		if _, err := ParseReport(c.raw); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("got %v, want an error with %q", err, c.want)
		}
	}
}

func TestReportBindsKeyAndNonce(t *testing.T) {
	t.Parallel()
	soft, _, _ := processor(t, Milan)
	raw, err := soft.Report(sha512.Sum512([]byte("xyn")), nil)
	if err != nil {
		t.Fatal(err)
	}
	r, err := ParseReport(raw)
	if err != nil {
		t.Fatal(err)
	}
	if !r.Binds([]byte("x"), []byte("y"), []byte("n")) || r.Binds([]byte("x"), []byte("y"), []byte("m")) || r.Binds([]byte("z"), []byte("y"), []byte("n")) {
		t.Error("the report binds other data than the guest's")
	}
}

func TestChainsThatAreNone(t *testing.T) {
	t.Parallel()
	soft, _, _ := processor(t, Milan)
	other, _, _ := processor(t, Genoa)
	first := func(text []byte) []byte { return text[:bytes.Index(text[1:], []byte("-----BEGIN"))+1] }
	last := func(text []byte) []byte { return text[bytes.Index(text[1:], []byte("-----BEGIN"))+1:] }
	for name, c := range map[string]struct {
		text []byte
		want string
	}{
		"nothing":              {nil, "0 certificates"},
		"the ASK alone":        {first(soft.Roots), "1 certificates"},
		"two ASKs":             {slices.Concat(first(soft.Roots), first(other.Roots)), "neither certificate is an ARK"},
		"ASK and ARK of two":   {slices.Concat(first(soft.Roots), last(other.Roots)), "did not sign the ASK"},
		"no certificate in it": {[]byte("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"), "certificate 1"},
	} {
		if _, err := ParseChain(Milan, c.text); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: got %v, want an error with %q", name, err, c.want)
		}
	}
	if _, err := ParseChain(Milan, slices.Concat(last(soft.Roots), first(soft.Roots))); err != nil {
		t.Errorf("ARK before ASK: %v", err)
	}
	if _, err := AMD("Rome"); err == nil {
		t.Error("AMD's certificates for a product without SEV-SNP")
	}
}

// TestAMDsChains: what is built in is what AMD publishes, as another project carries it too.
func TestAMDsChains(t *testing.T) {
	t.Parallel()
	for _, p := range Products() {
		if _, err := AMD(p); err != nil {
			t.Errorf("%s: %v", p, err)
		}
		theirs, err := trust.GetDefaultRootCerts(string(p))
		if err != nil {
			t.Fatal(err)
		}
		text, err := roots.ReadFile("roots/" + strings.ToLower(string(p)) + ".pem")
		if err != nil {
			t.Fatal(err)
		}
		if der := pemDER(t, text); !bytes.Equal(der, theirs.ProductCerts.Ask.Raw) {
			t.Errorf("%s: the ASK is another", p)
		}
	}
}

// TestRealReport verifies a report of a processor of AMD's with AMD's own certificates.
func TestRealReport(t *testing.T) {
	t.Parallel()
	r, err := ParseReport(testdata.AttestationBytes)
	if err != nil {
		t.Fatal(err)
	}
	chain, err := AMD(Milan)
	if err != nil {
		t.Fatal(err)
	}
	vcek := certificate(t, testdata.VcekBytes)
	claims, err := chain.Verify(r, vcek, vcek.NotBefore.Add(time.Hour))
	if err != nil {
		t.Fatal(err)
	}
	theirs, err := abi.ReportToProto(testdata.AttestationBytes)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(claims.Measurement, theirs.Measurement) || !bytes.Equal(claims.ReportData, theirs.ReportData) || !bytes.Equal(claims.HostData, theirs.HostData) {
		t.Errorf("claims %+v", claims)
	}
	policy, err := abi.ParseSnpPolicy(theirs.Policy)
	if err != nil {
		t.Fatal(err)
	}
	if claims.PolicyDebug != policy.Debug || claims.PolicySMT != policy.SMT || claims.PolicyABIMajor != policy.ABIMajor || claims.PolicySingleSocket != policy.SingleSocket {
		t.Errorf("policy %+v, another reader has %+v", claims, policy)
	}
}

// TestVerdictsOfAPeer holds the verdicts on a software processor's reports, good and bad, against google/go-sev-guest.
func TestVerdictsOfAPeer(t *testing.T) {
	t.Parallel()
	for _, p := range []Product{Milan, Genoa} {
		soft, chain, vcek := processor(t, p)
		root := trust.AMDRootCertsProduct(string(p))
		if err := root.FromKDSCertBytes(soft.Roots); err != nil {
			t.Fatal(err)
		}
		peer := func(raw, der []byte) error {
			parsed, err := abi.ReportToProto(raw)
			if err != nil {
				return err
			}
			return verify.SnpAttestation(
				&sevsnp.Attestation{Report: parsed, CertificateChain: &sevsnp.CertificateChain{VcekCert: der}},
				&verify.Options{DisableCertFetching: true, Now: time.Now(), TrustedRoots: map[string][]*trust.AMDRootCerts{string(p): {root}}},
			)
		}
		other, err := fleet.NewProcessor(string(p))
		if err != nil {
			t.Fatal(err)
		}
		for name, c := range map[string]struct {
			change func([]byte) // after signing
			vcek   []byte
			good   bool
		}{
			"good":                 {func([]byte) {}, vcek.Raw, true},
			"changed":              {func(b []byte) { b[atHostData] ^= 1 }, vcek.Raw, false},
			"R changed":            {func(b []byte) { b[atSignature] ^= 1 }, vcek.Raw, false},
			"S changed":            {func(b []byte) { b[atSignature+scalarSize+3] ^= 1 }, vcek.Raw, false},
			"no signature":         {func(b []byte) { clear(b[atSignature:]) }, vcek.Raw, false},
			"a stranger's key":     {func([]byte) {}, other.VCEK, false},
			"cut off":              {func(b []byte) { b[atVersion] = 0 }, vcek.Raw, false},
			"signed by its nobody": {func(b []byte) { b[atSigner] = 7 << 2 }, vcek.Raw, false},
		} {
			raw, err := soft.Report([64]byte{9}, nil)
			if err != nil {
				t.Fatal(err)
			}
			c.change(raw)
			ours := func() error {
				r, err := ParseReport(raw)
				if err != nil {
					return err
				}
				_, err = chain.Verify(r, certificate(t, c.vcek), time.Now())
				return err
			}()
			if theirs := peer(raw, c.vcek); (ours == nil) != c.good || (theirs == nil) != c.good {
				t.Errorf("%s, %s: ours %v, theirs %v", p, name, ours, theirs)
			}
		}
	}
}

func TestNamesOfCertificates(t *testing.T) {
	t.Parallel()
	soft, _, _ := processor(t, Turin)
	r := report(t, soft, func(b []byte) { copy(b[atChipID:], []byte{1, 2, 3, 4, 5, 6, 7, 8}) })
	if got, want := r.VCEKPath(Turin), "/vcek/v1/Turin/0102030405060708?fmcSPL=01&blSPL=03&teeSPL=01&snpSPL=04&ucodeSPL=72"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
	milan, err := ParseReport(testdata.AttestationBytes)
	if err != nil {
		t.Fatal(err)
	}
	if got := milan.VCEKPath(Milan); !strings.HasPrefix(got, "/vcek/v1/Milan/3ac3fe21e13fb0990eb28a802e3fb6a29483a6b0753590c951bdd3b8e53786184ca39e359669a2b76a1936776b564ea464cdce40c05f63c9b610c5068b006b5d?blSPL=02&") {
		t.Errorf("path %s", got)
	}
	if got := milan.VCEKName(); len(got) != 128+1+16 {
		t.Errorf("name %s", got)
	}
}

func TestKeyOfAnotherCurveIsRefused(t *testing.T) {
	t.Parallel()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.CreateCertificate(rand.Reader, &x509.Certificate{SerialNumber: big.NewInt(1)}, &x509.Certificate{}, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	if _, ok := vcekKey(certificate(t, der)); ok {
		t.Error("a key of P-256 is taken for a VCEK")
	}
}

// FuzzReport: whatever the bytes, no panic, and only what the processor signed verifies.
func FuzzReport(f *testing.F) {
	soft, chain, vcek := processor(f, Milan)
	good, err := soft.Report([64]byte{1}, nil)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(good)
	f.Add(good[:0x188])
	f.Add(bytes.Repeat([]byte{0xFF}, ReportSize))
	f.Fuzz(func(t *testing.T, raw []byte) {
		r, err := ParseReport(raw)
		if err != nil {
			return
		}
		_ = r.VCEKPath(Turin)
		if _, err := chain.Verify(r, vcek, time.Now()); err == nil && !bytes.Equal(raw[:atSignature], good[:atSignature]) {
			t.Error("a report verifies that the processor did not make")
		}
	})
}

func pemDER(t testing.TB, text []byte) []byte {
	t.Helper()
	block, _ := pem.Decode(text)
	if block == nil {
		t.Fatal("no PEM")
	}
	return block.Bytes
}

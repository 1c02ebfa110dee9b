package pki

import (
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"keylime/internal/recorded"
)

// storeOf is a store with the certificates of makers.
func storeOf(t testing.TB, makers ...*maker) *Store {
	t.Helper()
	dir := t.TempDir()
	for i, m := range makers {
		writeTestFile(t, filepath.Join(dir, fmt.Sprintf("%d.der", i)), m.cert.Raw)
	}
	s, warnings, err := LoadStore(dir)
	if err != nil || len(warnings) > 0 {
		t.Fatal(err, warnings)
	}
	return s
}

func TestVerifyEK(t *testing.T) {
	t.Parallel()
	root := newMaker(t, "Root", nil)
	intermediate := root.issue(certificate{subject: "Intermediate"})
	deep := intermediate.issue(certificate{subject: "Deep"})
	expire := func(c *x509.Certificate) {
		c.NotBefore, c.NotAfter = testNow.AddDate(-3, 0, 0), testNow.AddDate(-2, 0, 0)
	}
	future := func(c *x509.Certificate) { c.NotBefore = testNow.Add(time.Hour) }
	oldIntermediate := root.issue(certificate{subject: "Old", edit: expire})
	notCA := root.issue(certificate{subject: "Not a CA", edit: func(c *x509.Certificate) { c.IsCA, c.KeyUsage = false, x509.KeyUsageCertSign }})
	noSign := root.issue(certificate{subject: "No signer", edit: func(c *x509.Certificate) { c.KeyUsage = x509.KeyUsageCRLSign }})
	short := root.issue(certificate{subject: "Short", edit: func(c *x509.Certificate) { c.MaxPathLenZero = true }})
	belowShort := short.issue(certificate{subject: "Below short"})
	webCA := root.issue(certificate{subject: "Web", edit: func(c *x509.Certificate) { c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth} }})
	constrained := root.issue(certificate{subject: "Constrained", edit: func(c *x509.Certificate) {
		c.PermittedDNSDomains, c.PermittedDNSDomainsCritical = []string{"example"}, true
	}})
	impostor := newMaker(t, "Root", nil) // same name, another key
	otherEK := root.ek(func(c *x509.Certificate) { c.Subject = pkix.Name{CommonName: "another EK"} })
	rogue := otherEK.issue(certificate{subject: "", edit: func(c *x509.Certificate) { ekProfile(t, c) }})

	for _, tc := range []struct {
		name  string
		leaf  *maker
		store []*maker
		chain []*maker
		off   Rule   // switched off
		on    Rule   // switched on beside the default
		want  string // part of the error; "" = trusted
		rule  Rule   // which, switched off, lets it pass
	}{
		{name: "issued by a root", leaf: root.ek(nil), store: []*maker{root}},
		{name: "issued by an intermediate of the store", leaf: intermediate.ek(nil), store: []*maker{intermediate}},
		{name: "intermediate and root in the store", leaf: deep.ek(nil), store: []*maker{root, intermediate, deep}},
		{name: "intermediates from the agent", leaf: deep.ek(nil), store: []*maker{root}, chain: []*maker{intermediate, deep, root}},
		{name: "issuer missing", leaf: intermediate.ek(nil), store: []*maker{root}, want: `issuer "O=TPM maker,CN=Intermediate"`},
		{name: "the agent's own root", leaf: impostor.ek(nil), store: []*maker{intermediate}, chain: []*maker{impostor}, want: "is not in the certificate store"},
		{name: "empty store", leaf: root.ek(nil), want: "is not in the certificate store"},

		// NT-15
		{name: "signed by an impostor of the root", leaf: impostor.ek(nil), store: []*maker{root}, want: "is not signed by"},
		{name: "impostor's root sent along", leaf: impostor.ek(nil), store: []*maker{root}, chain: []*maker{impostor}, want: "is not signed by"},
		{name: "self-signed in the root's name", leaf: impostor, store: []*maker{root}, off: RuleCA, want: "is not signed by"},

		// NT-16
		{name: "expired", leaf: root.ek(expire), store: []*maker{root}, want: "is valid from 2023-06-01 to 2024-06-01 only", rule: RuleValidity},
		{name: "not yet valid", leaf: root.ek(future), store: []*maker{root}, want: "is valid from", rule: RuleValidity},
		{name: "expired intermediate from the agent", leaf: oldIntermediate.ek(nil), store: []*maker{root}, chain: []*maker{oldIntermediate}, want: "is valid from", rule: RuleValidity},
		{name: "expired intermediate of the store", leaf: oldIntermediate.ek(nil), store: []*maker{oldIntermediate}},
		{name: "expired intermediate of the store, strictly", leaf: oldIntermediate.ek(nil), store: []*maker{oldIntermediate}, on: RuleAnchorValidity, want: "is valid from", rule: RuleAnchorValidity},

		// NT-17
		{name: "issuer of the store is not a CA", leaf: notCA.ek(nil), store: []*maker{notCA}, want: "is not a CA's", rule: RuleCA},
		{name: "issued by another EK", leaf: rogue, store: []*maker{root}, chain: []*maker{otherEK}, off: RuleKeyUsage, want: "is not a CA's", rule: RuleCA},
		{name: "issued by another EK, usage", leaf: rogue, store: []*maker{root}, chain: []*maker{otherEK}, off: RuleCA, want: "may not sign certificates", rule: RuleKeyUsage},
		{name: "issuer may not sign", leaf: noSign.ek(nil), store: []*maker{noSign}, want: "may not sign certificates", rule: RuleKeyUsage},
		{name: "a CA's certificate as EK certificate", leaf: intermediate, store: []*maker{root}, want: "is a CA's", rule: RuleCA},
		{name: "path longer than its CA allows", leaf: belowShort.ek(nil), store: []*maker{short}, chain: []*maker{belowShort}, want: "allows 0 CAs below it", rule: RuleCA},
		{name: "path as long as its CA allows", leaf: short.ek(nil), store: []*maker{short}},

		{name: "for another use", leaf: root.ek(func(c *x509.Certificate) { c.UnknownExtKeyUsage = []asn1.ObjectIdentifier{{2, 23, 133, 8, 3}} }), store: []*maker{root}, want: "is not for an endorsement key", rule: RuleEKUsage},
		{name: "for any use", leaf: root.ek(func(c *x509.Certificate) {
			c.UnknownExtKeyUsage, c.ExtKeyUsage = nil, []x509.ExtKeyUsage{x509.ExtKeyUsageAny}
		}), store: []*maker{root}},
		{name: "without uses", leaf: root.ek(func(c *x509.Certificate) { c.UnknownExtKeyUsage = nil }), store: []*maker{root}},
		{name: "CA for another use", leaf: webCA.ek(nil), store: []*maker{webCA}, want: "may not issue endorsement key certificates", rule: RuleEKUsage},
		{name: "unknown critical extension", leaf: root.ek(func(c *x509.Certificate) {
			c.ExtraExtensions = append(c.ExtraExtensions, pkix.Extension{Id: asn1.ObjectIdentifier{1, 2, 3}, Critical: true, Value: []byte{5, 0}})
		}), store: []*maker{root}, want: "critical extensions that are not known here: [1.2.3]", rule: RuleCritical},
		{name: "name constraints", leaf: constrained.ek(nil), store: []*maker{constrained}, want: "2.5.29.30", rule: RuleCritical},

		{name: "root demanded, intermediate alone", leaf: intermediate.ek(nil), store: []*maker{intermediate}, on: RuleRoot, want: `is no root, and its issuer "O=TPM maker,CN=Root"`, rule: RuleRoot},
		{name: "root demanded and there", leaf: intermediate.ek(nil), store: []*maker{intermediate, root}, on: RuleRoot},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			var chain []*Certificate
			for _, m := range tc.chain {
				chain = append(chain, m.tolerant())
			}
			s := storeOf(t, tc.store...)
			rules := maps.Clone(DefaultRules())
			delete(rules, tc.off)
			if tc.on != "" {
				rules[tc.on] = true
			}
			_, err := s.VerifyEK(tc.leaf.tolerant(), chain, testNow, rules)
			if tc.want == "" && err != nil {
				t.Error(err)
			}
			if tc.want != "" && (err == nil || !strings.Contains(err.Error(), tc.want)) {
				t.Errorf("error %v, want %q", err, tc.want)
			}
			if tc.rule == "" {
				return
			}
			if !strings.Contains(err.Error(), "rule "+string(tc.rule)) {
				t.Errorf("error %v does not name rule %s", err, tc.rule)
			}
			delete(rules, tc.rule)
			if _, err := s.VerifyEK(tc.leaf.tolerant(), chain, testNow, rules); err != nil {
				t.Errorf("with rule %s off: %v", tc.rule, err)
			}
		})
	}
}

func TestVerifyDeviceIgnoresUsages(t *testing.T) {
	t.Parallel()
	root := newMaker(t, "Root", nil)
	leaf := root.ek(func(c *x509.Certificate) { c.UnknownExtKeyUsage = []asn1.ObjectIdentifier{{2, 23, 133, 11, 1, 1}} }).tolerant()
	rules := DefaultRules()
	if _, err := storeOf(t, root).VerifyDevice(leaf, nil, testNow, rules); err != nil {
		t.Error(err)
	}
	if !rules[RuleEKUsage] {
		t.Error("the caller's rules were changed")
	}
}

// Path building takes bounded work, whatever certificates an agent sends.
func TestPathBuildingIsBounded(t *testing.T) {
	t.Parallel()
	root := newMaker(t, "Root", nil)
	a, b := newMaker(t, "A", nil), newMaker(t, "B", nil)
	loop := []*Certificate{a.issue(certificate{subject: "B", key: b.key}).tolerant(), b.issue(certificate{subject: "A", key: a.key}).tolerant()}
	if _, err := storeOf(t, root).VerifyEK(a.ek(nil).tolerant(), loop, testNow, DefaultRules()); err == nil {
		t.Error("a loop of two CAs leads to trust")
	}
	var same []*Certificate
	for range maxChain {
		same = append(same, newMaker(t, "A", nil).tolerant())
	}
	if _, err := storeOf(t, root).VerifyEK(a.ek(nil).tolerant(), same, testNow, DefaultRules()); err == nil {
		t.Error("many CAs of one name lead to trust")
	}
	if _, err := storeOf(t, root).VerifyEK(root.ek(nil).tolerant(), append(same, same...), testNow, DefaultRules()); err == nil {
		t.Error("any number of further certificates is taken")
	}
	m, chain := root, []*Certificate(nil)
	for i := range maxPath {
		m = m.issue(certificate{subject: fmt.Sprint("level ", i)})
		chain = append(chain, m.tolerant())
	}
	if _, err := storeOf(t, root).VerifyEK(m.ek(nil).tolerant(), chain, testNow, DefaultRules()); err == nil || !strings.Contains(err.Error(), "longer than") {
		t.Errorf("a very long path: %v", err)
	}
}

func TestSignatureAlgorithms(t *testing.T) {
	t.Parallel()
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	m := &maker{t, &x509.Certificate{Subject: pkix.Name{Organization: []string{"TPM maker"}, CommonName: "RSA root"}}, key}
	for _, alg := range []x509.SignatureAlgorithm{x509.SHA256WithRSA, x509.SHA384WithRSA, x509.SHA512WithRSA, x509.SHA256WithRSAPSS, x509.SHA384WithRSAPSS, x509.SHA512WithRSAPSS} {
		root := m.issue(certificate{"RSA root", func(c *x509.Certificate) { c.SignatureAlgorithm = alg }, key}).tolerant()
		if !root.selfSigned() {
			t.Errorf("%v does not verify", alg)
		}
		root.tbs[len(root.tbs)-1] ^= 1
		if root.selfSigned() {
			t.Errorf("%v verifies over other bytes", alg)
		}
	}
}

// NT-15: certificates that real software TPMs carry verify against their maker's, and a forged bit does not.
func TestRecordedCertificatesVerify(t *testing.T) {
	t.Parallel()
	for _, run := range []string{"pull", "cert", "push", "mb", "mbpush", "ecc"} {
		dir := filepath.Join(recorded.Dir(t), "wire", run, "state")
		s, warnings, err := LoadStore(filepath.Join(dir, "certstore"))
		if err != nil || len(warnings) > 0 {
			t.Fatal(run, err, warnings)
		}
		all, err := ParseCertificates(readFile(t, filepath.Join(dir, "ekcert.pem")))
		if err != nil {
			t.Fatal(run, err)
		}
		leaf := all[0]
		path, err := s.VerifyEK(leaf, all[1:], leaf.NotBefore.Add(time.Hour), DefaultRules())
		if err != nil || len(path.Certificates) != 2 {
			t.Errorf("%s: %v, path of %d", run, err, len(path.Certificates))
		}
		strict, err := ParseRules([]string{"strict"})
		if err != nil {
			t.Fatal(err)
		}
		if path, err := s.VerifyEK(leaf, nil, leaf.NotBefore.Add(time.Hour), strict); err != nil || len(path.Certificates) != 3 {
			t.Errorf("%s, strictly: %v, path of %d", run, err, len(path.Certificates))
		}
		leaf.tbs[len(leaf.tbs)-1] ^= 1
		if _, err := s.VerifyEK(leaf, nil, leaf.NotBefore.Add(time.Hour), DefaultRules()); err == nil {
			t.Errorf("%s: a changed certificate verifies", run)
		}
	}
}

// NT-19: what lies in a store besides certificates is skipped in bounded time, with a warning.
func TestLoadStoreSkipsWhatIsNoCertificate(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	in := func(name string) string { return filepath.Join(dir, name) }
	root := newMaker(t, "Root", nil)
	pemText := encodeCertificate(root.cert.Raw)
	second := encodeCertificate(newMaker(t, "Second", nil).cert.Raw)
	writeTestFile(t, in("copy.pem"), pemText)
	for i := range 10_000 {
		if err := os.Link(in("copy.pem"), in(fmt.Sprintf("copy-%d.pem", i))); err != nil {
			t.Fatal(err)
		}
	}
	writeTestFile(t, in("two.crt"), append([]byte("Certificate: text before\n"), append(pemText, second...)...))
	writeTestFile(t, in("root.DER"), root.cert.Raw)
	writeTestFile(t, in("README"), []byte("not a certificate"))
	if err := os.Mkdir(in("directory.pem"), 0o755); err != nil {
		t.Fatal(err)
	}
	writeTestFile(t, in("garbage.pem"), []byte("not a certificate"))
	writeTestFile(t, in("empty.pem"), nil)
	writeTestFile(t, in("huge.pem"), nil)
	if err := os.Truncate(in("huge.pem"), 1<<30); err != nil {
		t.Fatal(err)
	}
	for _, link := range [][2]string{{"loop.pem", "loop.pem"}, {"none.pem", "nowhere"}, {"link.pem", "two.crt"}} {
		if err := os.Symlink(link[1], in(link[0])); err != nil {
			t.Fatal(err)
		}
	}
	if err := syscall.Mkfifo(in("pipe.pem"), 0o600); err != nil {
		t.Fatal(err)
	}
	s, warnings, err := LoadStore(dir)
	if err != nil {
		t.Fatal(err)
	}
	if s.Len() != 2 {
		t.Errorf("%d certificates, want 2", s.Len())
	}
	skipped := map[string]bool{}
	for _, w := range warnings {
		skipped[filepath.Base(w.File)] = true
	}
	for _, name := range []string{"directory.pem", "garbage.pem", "empty.pem", "huge.pem", "loop.pem", "none.pem", "pipe.pem"} {
		if !skipped[name] {
			t.Errorf("no warning of %s", name)
		}
		delete(skipped, name)
	}
	if len(skipped) > 0 {
		t.Errorf("warnings of %v", skipped)
	}
	if _, _, err := LoadStore(in("absent")); err == nil {
		t.Error("an absent store is no error")
	}
}

func TestParseRules(t *testing.T) {
	t.Parallel()
	strict, err := ParseRules([]string{"strict"})
	if err != nil || len(strict) != len(allRules) {
		t.Errorf("%v, %v", strict, err)
	}
	some, err := ParseRules([]string{"validity", "sha1"})
	if err != nil || len(some) != 2 || !some[RuleValidity] || !some[RuleSHA1] {
		t.Errorf("%v, %v", some, err)
	}
	if _, err := ParseRules([]string{"dates"}); err == nil || !strings.Contains(err.Error(), "strict, validity, ca") {
		t.Errorf("unknown rule: %v", err)
	}
}

// One path of two signatures, beside the two verifications that it needs.
func BenchmarkVerifyEK(b *testing.B) {
	root := newMaker(b, "Root", nil)
	intermediate := root.issue(certificate{subject: "Intermediate"})
	leaf := intermediate.ek(nil).tolerant()
	chain := []*Certificate{intermediate.tolerant()}
	s := storeOf(b, root)
	anchor := root.tolerant()
	const rounds = 500
	start := time.Now()
	for range rounds {
		if leaf.checkSignature(chain[0]) != nil || chain[0].checkSignature(anchor) != nil {
			b.Fatal("signature")
		}
	}
	reference := time.Since(start).Seconds() / rounds
	for b.Loop() {
		if _, err := s.VerifyEK(leaf, chain, testNow, DefaultRules()); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(b.Elapsed().Seconds()/float64(b.N)/reference, "ratio")
}

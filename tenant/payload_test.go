package tenant

import (
	"archive/zip"
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"keylime/internal/config"
	"keylime/internal/pki"
	"keylime/internal/recorded"
)

// packer is a tenant that can prepare deliveries. Its CA has the subject of Keylime's defaults.
func packer(notes io.Writer) *tenant {
	return &tenant{
		cfg: config.Tenant{MaxPayloadSize: 1 << 20},
		ca: config.CA{Password: "test", Country: "US", CommonName: "Keylime Certificate Authority", State: "MA", Locality: "Lexington",
			Organization: "Keylime", OrgUnit: "53", CALifetime: 3650 * 24 * 3600e9, CertLifetime: 365 * 24 * 3600e9, Bits: 2048, CRLDist: "http://localhost:38080/crl"},
		notes: notes, random: rand.Reader,
	}
}

// unseal opens a delivery's payload with its key.
func unseal(t testing.TB, d delivery) []byte {
	t.Helper()
	raw, err := base64.StdEncoding.DecodeString(d.payload)
	if err != nil {
		t.Fatal(err)
	}
	block, err := aes.NewCipher(d.keys.k)
	if err != nil {
		t.Fatal(err)
	}
	gcm, err := cipher.NewGCMWithNonceSize(block, ivSize)
	if err != nil {
		t.Fatal(err)
	}
	plain, err := gcm.Open(nil, raw[:ivSize], raw[ivSize:], nil)
	if err != nil {
		t.Fatal(err)
	}
	return plain
}

func TestDeliveries(t *testing.T) {
	t.Parallel()
	tn := packer(io.Discard)
	d, err := tn.prepareDelivery(&options{})
	if err != nil || d != (delivery{metadata: "{}"}) {
		t.Errorf("nothing: %+v, %v", d, err)
	}
	d, err = tn.prepareDelivery(&options{file: writeFile(t, "secret", "the secret payload\n")})
	if err != nil || string(unseal(t, d)) != "the secret payload\n" || d.revocationKey != "" || d.metadata != "{}" {
		t.Errorf("a file: %+v, %v", d, err)
	}
	s, err := newShares(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	sealed, err := s.seal(rand.Reader, []byte("sealed before"))
	if err != nil {
		t.Fatal(err)
	}
	b64 := base64.StdEncoding.EncodeToString
	keyFile := writeFile(t, "keys", strings.Join([]string{b64(s.k), b64(s.v), b64(s.u)}, "\n")+"\n")
	d, err = tn.prepareDelivery(&options{keyFile: keyFile, payload: writeFile(t, "payload", sealed+"\n")})
	if err != nil || string(unseal(t, d)) != "sealed before" {
		t.Errorf("a payload sealed before: %+v, %v", d, err)
	}
	d, err = tn.prepareDelivery(&options{keyFile: keyFile})
	if err != nil || d.payload != "" || d.keys == nil {
		t.Errorf("a key alone: %+v, %v", d, err)
	}
	for _, c := range []struct {
		name  string
		o     options
		wrong string
	}{
		{"no file", options{file: "/nonexistent"}, "no such file"},
		{"a directory", options{file: t.TempDir()}, "directory"},
		{"too large", options{file: writeFile(t, "big", strings.Repeat("x", 1<<20+1))}, "larger than"},
		{"too large in base64", options{file: writeFile(t, "big", strings.Repeat("x", 1<<20-100))}, "max_payload_size is"},
		{"a payload that is not sealed", options{keyFile: keyFile, payload: writeFile(t, "p", "plain text")}, "not base64"},
		{"half a key file", options{keyFile: writeFile(t, "k", b64(s.k))}, "three lines"},
	} {
		if _, err := tn.prepareDelivery(&c.o); err == nil || !strings.Contains(err.Error(), c.wrong) {
			t.Errorf("%s: got %v, want an error with %q", c.name, err, c.wrong)
		}
	}
}

// NT-72
func TestKeyFileOthersCanRead(t *testing.T) {
	t.Parallel()
	var notes strings.Builder
	s, err := newShares(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	b64 := base64.StdEncoding.EncodeToString
	keyFile := writeFile(t, "keys", b64(s.k)+"\n"+b64(s.u)+"\n"+b64(s.v))
	if err := os.Chmod(keyFile, 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := packer(&notes).prepareDelivery(&options{keyFile: keyFile}); err != nil || !strings.Contains(notes.String(), "chmod 600") {
		t.Errorf("got %v, notes %q", err, notes.String())
	}
}

func TestCertificatePackage(t *testing.T) {
	t.Parallel()
	tn, dir, include := packer(io.Discard), filepath.Join(t.TempDir(), "ca"), t.TempDir()
	for name, content := range map[string]string{"autorun.sh": "#!/bin/sh\n", "action_list": "x\n"} {
		if err := os.WriteFile(filepath.Join(include, name), []byte(content), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Mkdir(filepath.Join(include, "deeper"), 0o700); err != nil {
		t.Fatal(err)
	}
	o := &options{agent: defaultAgent, certDir: dir, include: include}
	d, err := tn.prepareDelivery(o)
	if err != nil {
		t.Fatal(err)
	}
	archive := unseal(t, d)
	z, err := zip.NewReader(bytes.NewReader(archive), int64(len(archive)))
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	content := map[string][]byte{}
	for _, f := range z.File {
		names = append(names, f.Name)
		if f.Method != zip.Store || f.Mode().Perm() != 0o600 {
			t.Errorf("%s: method %d, mode %v; want stored, 0600", f.Name, f.Method, f.Mode())
		}
		r, err := f.Open()
		if err != nil {
			t.Fatal(err)
		}
		if content[f.Name], err = io.ReadAll(r); err != nil {
			t.Fatal(err)
		}
	}
	want := []string{defaultAgent + "-public.pem", defaultAgent + "-cert.crt", defaultAgent + "-private.pem",
		"cacert.crt", "cacrl.der", "cacrl.pem", "RevocationNotifier-cert.crt", "action_list", "autorun.sh"}
	if !slices.Equal(names, want) {
		t.Errorf("files: got %v, want %v", names, want)
	}
	cert := parseCert(t, content[defaultAgent+"-cert.crt"])
	if err := cert.CheckSignatureFrom(parseCert(t, content["cacert.crt"])); err != nil || cert.Subject.CommonName != defaultAgent {
		t.Errorf("the agent's certificate: %v, subject %v", err, cert.Subject)
	}
	if slices.Contains(cert.ExtKeyUsage, x509.ExtKeyUsageClientAuth) {
		t.Error("the agent's certificate would make it an administrator of the verifier's CA")
	}
	for _, c := range []struct{ key, cert string }{{string(content[defaultAgent+"-private.pem"]), defaultAgent + "-cert.crt"}, {d.revocationKey, "RevocationNotifier-cert.crt"}} {
		key, err := pki.ReadPrivateKey([]byte(c.key), "")
		if err != nil {
			t.Fatal(err)
		}
		if !parseCert(t, content[c.cert]).PublicKey.(*rsa.PublicKey).Equal(key.Public()) {
			t.Errorf("%s is not for its private key", c.cert)
		}
	}
	if want := `{"cert_serial": ` + cert.SerialNumber.String() + `, "subject": "OU=53,O=Keylime,L=Lexington,ST=MA,CN=` + defaultAgent + `,C=US"}`; d.metadata != want {
		t.Errorf("metadata: got %s, want %s", d.metadata, want)
	}

	again, err := tn.prepareDelivery(o)
	if err != nil || again.metadata != d.metadata || again.revocationKey != d.revocationKey {
		t.Errorf("a second package has other certificates: %v", err)
	}
	if bytes.Equal(again.keys.k, d.keys.k) {
		t.Error("a second package is encrypted with the same key")
	}
	for _, c := range []struct {
		name  string
		spoil func(*options, *tenant)
		wrong string
	}{
		{"an id that is the administrator's", func(o *options, _ *tenant) { o.agent = "client" }, "name of another certificate"},
		{"an id that is the notifier's", func(o *options, _ *tenant) { o.agent = notifier }, "name of another certificate"},
		{"a file in the place of a certificate", func(o *options, _ *tenant) {
			o.include = filepath.Dir(writeFile(t, "cacert.crt", "x"))
		}, "has a file cacert.crt already"},
		{"no directory", func(o *options, _ *tenant) { o.include = "/nonexistent" }, "no such file"},
		{"another password", func(o *options, tn *tenant) { o.agent = "B"; tn.ca.Password = "other" }, "password"},
		{"too much", func(o *options, _ *tenant) {
			o.include = filepath.Dir(writeFile(t, "big", strings.Repeat("x", 1<<20)))
		}, "max_payload_size"},
	} {
		o, tn := *o, *tn
		c.spoil(&o, &tn)
		if _, err := tn.prepareDelivery(&o); err == nil || !strings.Contains(err.Error(), c.wrong) {
			t.Errorf("%s: got %v, want an error with %q", c.name, err, c.wrong)
		}
	}
}

func parseCert(t testing.TB, text []byte) *x509.Certificate {
	t.Helper()
	block, _ := pem.Decode(text)
	if block == nil {
		t.Fatalf("no certificate in %q", text)
		return nil
	}
	cert, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	return cert
}

// TestRecordedMetadata holds that our metadata has the shape of another tenant's.
func TestRecordedMetadata(t *testing.T) {
	t.Parallel()
	var theirs struct {
		Metadata string `json:"metadata"`
	}
	if err := json.Unmarshal(recorded.Read(t, "wire/cert/008-tenant-POST-v2.6_agents_ID.json").Request.JSON, &theirs); err != nil {
		t.Fatal(err)
	}
	d, err := packer(io.Discard).prepareDelivery(&options{agent: defaultAgent, certDir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	if d.metadata != theirs.Metadata {
		t.Errorf("got %s, another tenant %s", d.metadata, theirs.Metadata)
	}
}

package ima

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/decred/dcrd/dcrec/secp256k1/v4"
	k1 "github.com/decred/dcrd/dcrec/secp256k1/v4/ecdsa"

	"keylime/internal/recorded"
)

// signer is a private key of one algorithm with its public half.
type signer struct {
	name string
	key  *Key
	sign func(h crypto.Hash, digest []byte) []byte
}

// signers has one of each algorithm.
func signers(t testing.TB) []signer {
	t.Helper()
	var all []signer
	for _, curve := range []elliptic.Curve{elliptic.P224(), elliptic.P256(), elliptic.P384(), elliptic.P521()} {
		k, err := ecdsa.GenerateKey(curve, rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, signer{curve.Params().Name, mustKey(t, &k.PublicKey), func(_ crypto.Hash, digest []byte) []byte {
			s, err := ecdsa.SignASN1(rand.Reader, k, digest)
			if err != nil {
				t.Fatal(err)
			}
			return s
		}})
	}
	k, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	all = append(all, signer{"RSA", mustKey(t, &k.PublicKey), func(h crypto.Hash, digest []byte) []byte {
		s, err := rsa.SignPKCS1v15(nil, k, h, digest)
		if err != nil {
			t.Fatal(err)
		}
		return s
	}})
	koblitz, err := secp256k1.GeneratePrivateKey()
	if err != nil {
		t.Fatal(err)
	}
	public, err := newECKey(oidSecp256k1, koblitz.PubKey().SerializeCompressed())
	if err != nil {
		t.Fatal(err)
	}
	return append(all, signer{"secp256k1", public, func(_ crypto.Hash, digest []byte) []byte {
		return k1.Sign(koblitz, digest).Serialize()
	}})
}

func mustKey(t testing.TB, public any) *Key {
	t.Helper()
	der, err := x509.MarshalPKIXPublicKey(public)
	if err != nil {
		t.Fatal(err)
	}
	k, err := ParseKey(der)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(k.SPKI(), der) {
		t.Fatalf("%x is kept as %x", der, k.SPKI())
	}
	return k
}

// attribute is a security.ima attribute.
func attribute(kind, version, hash byte, keyID uint32, signature []byte) []byte {
	b := binary.BigEndian.AppendUint32([]byte{kind, version, hash}, keyID)
	return append(binary.BigEndian.AppendUint16(b, uint16(len(signature))), signature...)
}

func TestVerifyEachAlgorithm(t *testing.T) {
	t.Parallel()
	all := signers(t)
	var ring *Keyring
	for _, s := range all {
		ring = ring.With(s.key)
	}
	for _, h := range signatureHashes {
		hash := h.hash.New()
		hash.Write([]byte("content"))
		digest := hash.Sum(nil)
		for _, s := range all {
			e := &Entry{Alg: []byte(h.name), Digest: digest, Signature: attribute(3, 2, h.number, s.key.ID(), s.sign(h.hash, digest))}
			cache := NewSignatureCache(10)
			for _, known := range []*SignatureCache{nil, cache, cache} {
				if !ring.Verify(e, known) {
					t.Errorf("%s, %s: a good signature is refused", s.name, h.name)
				}
			}
			e.Digest = slices.Clone(digest)
			e.Digest[0] ^= 1
			if ring.Verify(e, cache) || NewKeyring().Verify(e, nil) {
				t.Errorf("%s, %s: the signature of another file is accepted", s.name, h.name)
			}
		}
	}
}

// NT-3B: only a version 2 signature of exactly the entry's digest, by the key that it names, counts.
func TestVerifyRefuses(t *testing.T) {
	t.Parallel()
	all := signers(t)
	good, other := all[1], all[2]
	sum := crypto.SHA256.New().Sum(nil)
	signature := good.sign(crypto.SHA256, sum)
	ring := NewKeyring(good.key, other.key)
	id := good.key.ID()
	for _, c := range []struct {
		name      string
		alg       string
		attribute []byte
		want      bool
	}{
		{"good", "sha256", attribute(3, 2, 4, id, signature), true},
		{"of a portable signature", "sha256", attribute(5, 2, 4, id, signature), true},
		{"of the digest type", "sha256", attribute(4, 2, 4, id, signature), false},
		{"of fs-verity", "sha256", attribute(6, 3, 4, id, signature), false},
		{"version 1", "sha256", attribute(3, 1, 4, id, signature), false},
		{"version 3", "sha256", attribute(3, 3, 4, id, signature), false},
		{"other algorithm in the header", "sha256", attribute(3, 2, 6, id, signature), false},
		{"unknown algorithm", "sha256", attribute(3, 2, 200, id, signature), false},
		{"other algorithm in the entry", "sha512", attribute(3, 2, 4, id, signature), false},
		{"digest of another length", "sha512", attribute(3, 2, 6, id, signature), false},
		{"unknown key id", "sha256", attribute(3, 2, 4, id+1, signature), false},
		{"id of another key", "sha256", attribute(3, 2, 4, other.key.ID(), signature), false},
		{"signature cut", "sha256", attribute(3, 2, 4, id, signature[:len(signature)-1]), false},
		{"no signature behind the header", "sha256", attribute(3, 2, 4, id, nil), false},
		{"bytes behind the signature", "sha256", append(attribute(3, 2, 4, id, signature), 0), false},
		{"empty", "sha256", nil, false},
	} {
		e := &Entry{Alg: []byte(c.alg), Digest: sum, Signature: c.attribute}
		if got := ring.Verify(e, NewSignatureCache(1)); got != c.want {
			t.Errorf("%s: %v", c.name, got)
		}
	}
}

// Lines that a kernel logged for files which evmctl had signed, with the keys that belong to them.
func TestVerifyRecordedSignatures(t *testing.T) {
	t.Parallel()
	lines, err := os.ReadFile("testdata/signed")
	if err != nil {
		t.Fatal(err)
	}
	rsaLine, ecLine, _ := bytes.Cut(bytes.TrimSuffix(lines, lineFeed), lineFeed)
	for _, c := range []struct {
		file string
		id   uint32
		line []byte
	}{
		{"rsa2048pub.pem", 0xf3452d23, rsaLine},
		{"rsa2048.pem", 0xf3452d23, rsaLine},
		{"secp256k1.pem", 0x531f4025, ecLine},
	} {
		key, err := ParseKey(recorded.File(t, "policy/keys/"+c.file))
		if err != nil {
			t.Fatalf("%s: %v", c.file, err)
		}
		if key.ID() != c.id {
			t.Errorf("%s: id %08x, want %08x", c.file, key.ID(), c.id)
		}
		for _, line := range [][]byte{rsaLine, ecLine} {
			var p Parser
			e, err := p.Parse(line)
			if err != nil {
				t.Fatal(err)
			}
			if got, want := NewKeyring(key).Verify(e, nil), bytes.Equal(line, c.line); got != want {
				t.Errorf("%s: signature of %s: %v", c.file, e.Name, got)
			}
		}
	}
}

// The certificates that a kernel loaded into its keyrings: their ids are those of their Subject Key Identifiers.
func TestParseRecordedKeys(t *testing.T) {
	t.Parallel()
	ids := map[string]bool{}
	for _, line := range genuine(t) {
		var p Parser
		if e, err := p.Parse(line); err == nil && ClassifyKey(e.Buffer) == UsableKey {
			key, err := ParseKey(e.Buffer)
			if err != nil {
				t.Errorf("%s: %v", e.Name, err)
				continue
			}
			ids[fmt.Sprintf("%08x", key.ID())] = true
		}
	}
	if !ids["2cb6058c"] {
		t.Errorf("key 2cb6058c is not among %v", ids)
	}
}

func TestParseKeyForms(t *testing.T) {
	t.Parallel()
	ec, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	rsaPrivate, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	sec1, err := x509.MarshalECPrivateKey(ec)
	if err != nil {
		t.Fatal(err)
	}
	pkcs8 := func(private any) []byte {
		der, err := x509.MarshalPKCS8PrivateKey(private)
		if err != nil {
			t.Fatal(err)
		}
		return der
	}
	compressed := elliptic.MarshalCompressed(ec.Curve, ec.X, ec.Y)
	short, err := newECKey(curves[1].oid, compressed)
	if err != nil {
		t.Fatal(err)
	}
	ecKey, rsaKey := mustKey(t, &ec.PublicKey), mustKey(t, &rsaPrivate.PublicKey)
	for _, c := range []struct {
		name string
		der  []byte
		want *Key
	}{
		{"EC public", ecKey.SPKI(), ecKey},
		{"EC, SEC 1", sec1, ecKey},
		{"EC, PKCS#8", pkcs8(ec), ecKey},
		{"EC, compressed", short.SPKI(), ecKey},
		{"RSA public", rsaKey.SPKI(), rsaKey},
		{"RSA, PKCS#1 public", x509.MarshalPKCS1PublicKey(&rsaPrivate.PublicKey), rsaKey},
		{"RSA, PKCS#1", x509.MarshalPKCS1PrivateKey(rsaPrivate), rsaKey},
		{"RSA, PKCS#8", pkcs8(rsaPrivate), rsaKey},
	} {
		inPEM := pem.EncodeToMemory(&pem.Block{Type: "ANY", Bytes: c.der})
		withParameters := append(pem.EncodeToMemory(&pem.Block{Type: "EC PARAMETERS", Bytes: []byte{6, 1, 0}}), inPEM...)
		for form, text := range map[string][]byte{"DER": c.der, "PEM": inPEM, "PEM behind parameters": withParameters} {
			if got, err := ParseKey(text); err != nil || !got.Equal(c.want) {
				t.Errorf("%s in %s: %v", c.name, form, err)
			}
		}
	}
}

func TestParseKeyRefuses(t *testing.T) {
	t.Parallel()
	brainpool := newPointKey([]int{1, 3, 36, 3, 3, 2, 8, 1, 1, 7}, make([]byte, 65), nil).SPKI()
	offCurve := newPointKey(curves[0].oid, append([]byte{4}, bytes.Repeat([]byte{1}, 64)...), nil).SPKI()
	for _, c := range []struct {
		name string
		text []byte
		want string
	}{
		{"nothing", nil, "neither a certificate nor a key"},
		{"text", []byte("ssh-rsa AAAA"), "neither a certificate nor a key"},
		{"other PEM", pem.EncodeToMemory(&pem.Block{Type: "X", Bytes: []byte{1}}), "neither a certificate nor a key"},
		{"unknown curve", brainpool, "a key on curve 1.3.36.3.3.2.8.1.1.7"},
		{"no point of the curve", offCurve, "the key is not a point of its curve"},
	} {
		if k, err := ParseKey(c.text); err == nil || !strings.HasPrefix(err.Error(), c.want) {
			t.Errorf("%s: %v, %v", c.name, k, err)
		}
	}
}

func TestKeyringRoundTrip(t *testing.T) {
	t.Parallel()
	var ring *Keyring
	for i, s := range signers(t) {
		ring = ring.With(s.key.WithID(uint32(i)), s.key) // the second is new but for the first, where 0 changes nothing
	}
	if len(ring.Keys()) != 11 {
		t.Fatalf("%d keys", len(ring.Keys()))
	}
	quoted, err := json.Marshal(ring.String())
	if err != nil {
		t.Fatal(err)
	}
	for _, text := range []string{ring.String(), string(quoted)} {
		again, unusable, err := ParseKeyring(text)
		if err != nil || len(unusable) > 0 || again.String() != ring.String() {
			t.Errorf("%s reads as %s: %v %v", text, again, unusable, err)
		}
	}
}

func TestParseKeyringIsTolerant(t *testing.T) {
	t.Parallel()
	key := signers(t)[1].key
	pub := `"` + base64.StdEncoding.EncodeToString(key.SPKI()) + `"`
	computed := key.ID()
	for _, c := range []struct {
		text     string
		ids      []uint32
		unusable int
	}{
		{"", nil, 0},
		{`{"pubkeys":[],"keyids":[]}`, nil, 0},
		{`{"keyids":[7],"pubkeys":[` + pub + `]}`, []uint32{7}, 0},
		{`{"pubkeys":[` + pub + `],"keyids":[0]}`, []uint32{computed}, 0},
		{`{"pubkeys":[` + pub + `],"keyids":[]}`, []uint32{computed}, 0},
		{`{"pubkeys":[` + pub + `],"keyids":[4294967296]}`, []uint32{computed}, 0},
		{`{"pubkeys":[` + pub + `],"keyids":[-1]}`, []uint32{computed}, 0},
		{`{"pubkeys":[` + pub + `],"keyids":[5.0, 6]}`, []uint32{5}, 0},
		{`{"pubkeys":["AAAA","*",` + pub + `],"keyids":[1,2,3]}`, []uint32{3}, 2},
		{`{"pubkeys":[` + pub + `,` + pub + `],"keyids":[1,1],"meta":{"version":1,"x":2},"other":null}`, []uint32{1}, 0},
	} {
		ring, unusable, err := ParseKeyring(c.text)
		if err != nil || len(unusable) != c.unusable {
			t.Errorf("%s: %v, %v", c.text, unusable, err)
			continue
		}
		var ids []uint32
		for _, k := range ring.Keys() {
			ids = append(ids, k.ID())
		}
		if !slices.Equal(ids, c.ids) {
			t.Errorf("%s: ids %d", c.text, ids)
		}
	}
}

func TestParseKeyringRefuses(t *testing.T) {
	t.Parallel()
	for _, text := range []string{
		"x", "null", "[]", `"x"`, `""`, `"\"{}\""`, "{}", `{"pubkeys":[]}`, `{"keyids":[]}`, `{"pubkeys":{},"keyids":[]}`,
		`{"pubkeys":[1],"keyids":[]}`, `{"pubkeys":[],"keyids":["1"]}`, `{"pubkeys":[],"keyids":[1.5]}`,
		`{"pubkeys":[],"keyids":[]} ` + "x", `{"pubkeys":[],"pubkeys":[],"keyids":[]}`,
		`{"pubkeys":[],"keyids":[],"meta":{"version":0}}`, `{"pubkeys":[],"keyids":[],"meta":[]}`,
		`{"pubkeys":[` + strings.Repeat(`"",`, maxKeys) + `""],"keyids":[]}`,
		`{"pubkeys":[],"keyids":[` + strings.Repeat(`1,`, maxKeys) + `1]}`,
		strings.Repeat(" ", maxKeyringText+1),
	} {
		if ring, _, err := ParseKeyring(text); err == nil {
			t.Errorf("%.60s: accepted as %s", text, ring)
		}
	}
}

func TestKeyringWithLeavesTheOriginal(t *testing.T) {
	t.Parallel()
	all := signers(t)
	ring := NewKeyring(all[0].key)
	a, b := ring.With(all[1].key), ring.With(all[2].key)
	if len(ring.Keys()) != 1 || a.Keys()[1] != all[1].key || b.Keys()[1] != all[2].key {
		t.Error("keyrings share what they add")
	}
}

func TestSignatureCacheForgets(t *testing.T) {
	t.Parallel()
	c := NewSignatureCache(2)
	id := func(n byte) signatureID { return signatureID{n} }
	for n := range byte(4) {
		c.add(id(n))
	}
	c.has(id(0)) // asked for while old: kept
	for n := range byte(2) {
		c.add(id(10 + n))
	}
	if !c.has(id(0)) || c.has(id(1)) || !c.has(id(11)) || len(c.young)+len(c.old) > 4 {
		t.Errorf("young %v, old %v", c.young, c.old)
	}
}

// FuzzParseKeyring: no text panics, and what is accepted can be written and read again.
func FuzzParseKeyring(f *testing.F) {
	f.Add(NewKeyring(signers(f)[1].key).String())
	f.Add(`"{\"pubkeys\": [\"AAAA\"], \"keyids\": [1]}"`)
	f.Add(`{"meta":{"version":1},"keyids":[],"pubkeys":[]}`)
	f.Fuzz(func(t *testing.T, text string) {
		ring, _, err := ParseKeyring(text)
		if err != nil {
			return
		}
		again, unusable, err := ParseKeyring(ring.String())
		if err != nil || len(unusable) > 0 || again.String() != ring.String() {
			t.Fatalf("%q: %s became %s, %v, %v", text, ring, again, unusable, err)
		}
	})
}

// FuzzParseKey: no bytes panic, and what is accepted is a key of which the public form is the same key.
func FuzzParseKey(f *testing.F) {
	for _, s := range signers(f) {
		f.Add(s.key.SPKI())
	}
	for _, line := range genuine(f) {
		var p Parser
		if e, err := p.Parse(line); err == nil {
			f.Add(e.Buffer)
		}
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		key, err := ParseKey(text)
		if err != nil {
			return
		}
		if again, err := ParseKey(key.SPKI()); err != nil || !again.WithID(key.ID()).Equal(key) {
			t.Fatalf("%x: %v", text, err)
		}
	})
}

// FuzzVerify: no attribute panics.
func FuzzVerify(f *testing.F) {
	all := signers(f)
	var ring *Keyring
	for _, s := range all {
		ring = ring.With(s.key.WithID(1))
	}
	digest := make([]byte, 32)
	for _, s := range all {
		f.Add(attribute(3, 2, 4, 1, s.sign(crypto.SHA256, digest)))
	}
	f.Fuzz(func(t *testing.T, signature []byte) {
		ring.Verify(&Entry{Alg: []byte("sha256"), Digest: digest, Signature: signature}, nil)
	})
}

package differential

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/binary"
	"math/big"
	"slices"
	"testing"
	"time"

	"keylime/ima"
)

// signer signs files.
type signer struct {
	key    crypto.Signer
	public *ima.Key
	loaded []byte // what the kernel measures when the key is loaded: a certificate or a bare key
}

func newSigners(t *testing.T) []signer {
	t.Helper()
	ec, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	large, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	rsaKey, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	var list []signer
	for i, key := range []crypto.Signer{ec, large, rsaKey} {
		loaded, err := x509.MarshalPKIXPublicKey(key.Public())
		if i != 1 && err == nil {
			loaded, err = certificate(key, i == 0)
		}
		if err != nil {
			t.Fatal(err)
		}
		public, err := ima.ParseKey(loaded)
		if err != nil {
			t.Fatal(err)
		}
		list = append(list, signer{key, public, loaded})
	}
	return list
}

// certificate is self-signed; with a Subject Key Identifier it gives the key another id than the key's own.
func certificate(key crypto.Signer, withID bool) ([]byte, error) {
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "files"},
		NotBefore: time.Unix(1e9, 0), NotAfter: time.Unix(3e9, 0),
	}
	if withID {
		template.SubjectKeyId = []byte("an id of its own")
	}
	return x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
}

// sign makes the security.ima attribute of a file (struct signature_v2_hdr), over a SHA-256 digest.
func (s signer) sign(t *testing.T, digest []byte) []byte {
	t.Helper()
	sig, err := s.key.Sign(rand.Reader, digest, crypto.SHA256)
	if err != nil {
		t.Fatal(err)
	}
	const digsig, version2, sha256Number = 3, 2, 4
	header := []byte{digsig, version2, sha256Number}
	header = binary.BigEndian.AppendUint32(header, s.public.ID())
	header = binary.BigEndian.AppendUint16(header, uint16(len(sig)))
	return slices.Concat(header, sig)
}

// load is the measurement of the key when the kernel puts it on a ring.
func (s signer) load(ring string) entry {
	digest := sha256.Sum256(s.loaded)
	return entry{template: "ima-buf", alg: "sha256", digest: digest[:], name: ring, last: s.loaded}
}

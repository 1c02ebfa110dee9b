package repo

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"

	"github.com/ProtonMail/go-crypto/openpgp"
	"github.com/ProtonMail/go-crypto/openpgp/armor"
	"github.com/ProtonMail/go-crypto/openpgp/clearsign"
	"github.com/ProtonMail/go-crypto/openpgp/packet"
)

// Keyring holds the keys that may sign a repository's index.
type Keyring struct {
	pgp openpgp.EntityList
	ec  []*ecdsa.PublicKey
}

// maxSignatures bounds the signatures of one file; archives in a change of keys have three or four.
const maxSignatures = 32

// ParseKeyring reads OpenPGP public keys (RFC 9580), armored or not, or ECDSA public keys in PEM (SubjectPublicKeyInfo).
func ParseKeyring(data []byte) (*Keyring, error) {
	k := &Keyring{}
	var err error
	switch {
	case bytes.Contains(data, []byte("-----BEGIN PGP ")):
		k.pgp, err = openpgp.ReadArmoredKeyRing(bytes.NewReader(data))
	case bytes.Contains(data, []byte("-----BEGIN ")):
		k.ec, err = parseEC(data)
	default:
		k.pgp, err = openpgp.ReadKeyRing(bytes.NewReader(data))
	}
	if err != nil {
		return nil, fmt.Errorf("keyring: %w", err)
	}
	if len(k.pgp)+len(k.ec) == 0 {
		return nil, errors.New("keyring: it holds no key: give OpenPGP public keys or ECDSA public keys in PEM")
	}
	return k, nil
}

func parseEC(data []byte) (keys []*ecdsa.PublicKey, err error) {
	for {
		block, rest := pem.Decode(data)
		if block == nil {
			return keys, nil
		}
		data = rest
		key, err := x509.ParsePKIXPublicKey(block.Bytes)
		if err != nil {
			return nil, err
		}
		ec, ok := key.(*ecdsa.PublicKey)
		if !ok {
			return nil, fmt.Errorf("a %T: only ECDSA keys are supported in PEM", key)
		}
		keys = append(keys, ec)
	}
}

// VerifyDetached returns nil if one of the keys made one of the signatures in sig over content: OpenPGP's, or for an ECDSA
// key the DER form over SHA-256.
func (k *Keyring) VerifyDetached(content, sig []byte) error {
	sum := sha256.Sum256(content)
	for _, key := range k.ec {
		if ecdsa.VerifyASN1(key, sum[:], sig) {
			return nil
		}
	}
	if len(k.pgp) == 0 {
		return errors.New("the signature is of none of the trusted keys")
	}
	var packets io.Reader = bytes.NewReader(sig)
	if bytes.HasPrefix(bytes.TrimSpace(sig), []byte("-----BEGIN ")) {
		block, err := armor.Decode(packets)
		if err != nil {
			return fmt.Errorf("signature: %w", err)
		}
		packets = block.Body
	}
	return k.verifyPackets(content, packets)
}

// verifyPackets tries the signatures one by one: an archive is signed with several keys while it changes them.
func (k *Keyring) verifyPackets(content []byte, packets io.Reader) error {
	reader := packet.NewReader(packets)
	reason := errors.New("there is no signature")
	for range maxSignatures {
		p, err := reader.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			return fmt.Errorf("signature: %w", err)
		}
		sig, ok := p.(*packet.Signature)
		if !ok {
			continue
		}
		var one bytes.Buffer
		if err := sig.Serialize(&one); err != nil {
			return fmt.Errorf("signature: %w", err)
		}
		if _, err = openpgp.CheckDetachedSignature(k.pgp, bytes.NewReader(content), &one, nil); err == nil {
			return nil
		}
		reason = err
	}
	return fmt.Errorf("no signature of a trusted key: %w", reason)
}

// VerifyClearsigned returns the text of a clear-signed message (RFC 9580, section 7) if one of the keys signed it. What
// surrounds the message is not part of it.
func (k *Keyring) VerifyClearsigned(message []byte) ([]byte, error) {
	block, _ := clearsign.Decode(message)
	if block == nil {
		return nil, errors.New("it is no clear-signed message")
	}
	if len(k.pgp) == 0 {
		return nil, errors.New("only an OpenPGP key can verify it, and the keyring has none")
	}
	if err := k.verifyPackets(block.Bytes, block.ArmoredSignature.Body); err != nil {
		return nil, err
	}
	return block.Plaintext, nil
}

// Clearsigned returns the text of a clear-signed message without verifying anything.
func Clearsigned(message []byte) ([]byte, error) {
	block, _ := clearsign.Decode(message)
	if block == nil {
		return nil, errors.New("it is no clear-signed message")
	}
	return block.Plaintext, nil
}

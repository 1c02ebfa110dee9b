package pki

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"crypto/pbkdf2"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"math/big"
	"os"

	"go.yaml.in/yaml/v3"
)

// The keystore private.yml is a YAML mapping of a salt and a ciphertext: AES-256-GCM with a 16-byte nonce in front,
// in base64; the key is PBKDF2-HMAC-SHA256 of the password over the salt's text. The plaintext is YAML again.
const (
	keystoreName   = "private.yml"
	keystoreRounds = 100_000
	keystoreNonce  = 16
	maxKeystore    = 64 << 20 // keystores keep the key of every certificate ever issued
)

// keystore is the decrypted content of private.yml.
type keystore struct {
	salt       string
	CAKey      []byte   // PKCS#8 PEM
	LastSerial *big.Int // of the certificate issued last
	Revoked    []string // decimal serials
	// leafKeys are private keys of issued certificates by name, PEM. They are kept when others put them there.
	leafKeys map[string][]byte
}

var errKeystorePassword = errors.New("wrong password for the keystore private.yml: set [ca] password to the one it was made with")

func readKeystore(path, password string) (*keystore, error) {
	sealed, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("read keystore: %w", err)
	}
	ks, err := openKeystore(sealed, password)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return ks, nil
}

func openKeystore(sealed []byte, password string) (*keystore, error) {
	if len(sealed) > maxKeystore {
		return nil, fmt.Errorf("keystore is larger than %d bytes", maxKeystore)
	}
	var outer struct {
		Salt string `yaml:"salt"`
		Priv string `yaml:"priv"`
	}
	if err := yaml.Unmarshal(firstDocument(sealed), &outer); err != nil {
		return nil, fmt.Errorf("parse keystore: %w", err)
	}
	if outer.Salt == "" || outer.Priv == "" {
		return nil, errors.New("parse keystore: salt or priv is missing")
	}
	box, err := base64.StdEncoding.DecodeString(outer.Priv)
	if err != nil {
		return nil, fmt.Errorf("parse keystore: %w", err)
	}
	gcm, err := keystoreCipher(password, outer.Salt)
	if err != nil {
		return nil, err
	}
	if len(box) < keystoreNonce+gcm.Overhead() {
		return nil, errors.New("parse keystore: priv is too short")
	}
	plain, err := gcm.Open(nil, box[:keystoreNonce], box[keystoreNonce:], nil)
	if err != nil {
		return nil, errKeystorePassword
	}
	ks := &keystore{salt: outer.Salt, leafKeys: map[string][]byte{}}
	return ks, ks.parse(plain)
}

// firstDocument cuts what follows the salt line: a keystore that was overwritten in place by a shorter one ends with
// a rest of the longer. The writer sorts keys, so salt comes last.
func firstDocument(sealed []byte) []byte {
	if i := bytes.Index(sealed, []byte("\nsalt:")); i >= 0 {
		if j := bytes.IndexByte(sealed[i+1:], '\n'); j >= 0 {
			return sealed[:i+1+j]
		}
	}
	return sealed
}

func keystoreCipher(password, salt string) (cipher.AEAD, error) {
	key, err := pbkdf2.Key(sha256.New, password, []byte(salt), keystoreRounds, 32)
	if err != nil {
		return nil, fmt.Errorf("derive keystore key: %w", err)
	}
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, err
	}
	return cipher.NewGCMWithNonceSize(block, keystoreNonce)
}

func (ks *keystore) parse(plain []byte) error {
	var inner map[string]yaml.Node
	if err := yaml.Unmarshal(plain, &inner); err != nil {
		return fmt.Errorf("parse keystore content: %w", err)
	}
	for name, node := range inner {
		var err error
		switch name {
		case "ca":
			ks.CAKey, err = nodeBytes(node)
		case "lastserial":
			ks.LastSerial = new(big.Int)
			if _, ok := ks.LastSerial.SetString(node.Value, 10); !ok {
				err = errors.New("not a number")
			}
		case "revoked_keys":
			err = node.Decode(&ks.Revoked)
		default:
			ks.leafKeys[name], err = nodeBytes(node)
		}
		if err != nil {
			return fmt.Errorf("parse keystore content: %s: %w", name, err)
		}
	}
	if len(ks.CAKey) == 0 || ks.LastSerial == nil {
		return errors.New("parse keystore content: ca or lastserial is missing")
	}
	return nil
}

func nodeBytes(node yaml.Node) ([]byte, error) {
	var s string
	err := node.Decode(&s)
	return []byte(s), err
}

// seal encrypts the keystore as its file keeps it, with a fresh nonce.
func (ks *keystore) seal(password string) ([]byte, error) {
	if ks.salt == "" {
		salt := make([]byte, 32)
		rand.Read(salt)
		ks.salt = base64.StdEncoding.EncodeToString(salt)
	}
	revoked := ks.Revoked
	if revoked == nil {
		revoked = []string{}
	}
	inner := map[string]any{"ca": binaryNode(ks.CAKey), "lastserial": &yaml.Node{Kind: yaml.ScalarNode, Tag: "!!int", Value: ks.LastSerial.String()}, "revoked_keys": revoked}
	for name, key := range ks.leafKeys {
		inner[name] = binaryNode(key)
	}
	plain, err := yaml.Marshal(inner)
	if err != nil {
		return nil, fmt.Errorf("write keystore: %w", err)
	}
	gcm, err := keystoreCipher(password, ks.salt)
	if err != nil {
		return nil, err
	}
	nonce := make([]byte, keystoreNonce)
	rand.Read(nonce)
	box := base64.StdEncoding.EncodeToString(gcm.Seal(nonce, nonce, plain, nil))
	sealed, err := yaml.Marshal(map[string]any{"priv": binaryNode([]byte(box)), "salt": ks.salt})
	if err != nil {
		return nil, fmt.Errorf("write keystore: %w", err)
	}
	return sealed, nil
}

// binaryNode is a value that readers get back as bytes, not as text.
func binaryNode(b []byte) *yaml.Node {
	return &yaml.Node{Kind: yaml.ScalarNode, Tag: "!!binary", Value: base64.StdEncoding.EncodeToString(b)}
}

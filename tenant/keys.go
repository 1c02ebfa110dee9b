package tenant

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"crypto/hmac"
	"crypto/rsa"
	"crypto/sha1"
	"crypto/sha512"
	"crypto/subtle"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
)

const (
	keySize = 32 // AES-256
	ivSize  = 16 // the payload's GCM nonce is 16 bytes on the wire, not the usual 12
	tagSize = 16
)

// shares is a payload key K, split so that neither server nor tenant's message alone gives it: the tenant sends U
// to the agent, the verifier sends V after the first good quote, and K = U XOR V.
type shares struct{ k, u, v []byte }

// newShares draws a key from random.
func newShares(random io.Reader) (shares, error) {
	buf := make([]byte, 2*keySize)
	if _, err := io.ReadFull(random, buf); err != nil {
		return shares{}, fmt.Errorf("draw payload key: %w", err)
	}
	s := shares{k: buf[:keySize], v: buf[keySize:], u: make([]byte, keySize)}
	subtle.XORBytes(s.u, s.k, s.v)
	return s, nil
}

// parseShares reads a key file: K and its two shares in base64, a line each. Either share may come first, since XOR
// is symmetric.
func parseShares(text []byte) (shares, error) {
	lines := bytes.Fields(text)
	if len(lines) != 3 {
		return shares{}, fmt.Errorf("want three lines of base64 (K and its two shares), got %d", len(lines))
	}
	var parts [3][]byte
	for i, line := range lines {
		part, err := base64.StdEncoding.DecodeString(string(line))
		if err != nil || len(part) != keySize {
			return shares{}, fmt.Errorf("line %d: want base64 of %d bytes", i+1, keySize)
		}
		parts[i] = part
	}
	s := shares{k: parts[0], u: parts[1], v: parts[2]}
	sum := make([]byte, keySize)
	subtle.XORBytes(sum, s.u, s.v)
	if subtle.ConstantTimeCompare(sum, s.k) != 1 {
		return shares{}, errors.New("the shares in lines 2 and 3 do not give the key in line 1")
	}
	return s, nil
}

// mac is hex HMAC-SHA384 with K. Over the agent's id it is the tag by which the agent knows that U and V belong
// together; over a challenge it is the agent's proof that it has K.
func (s shares) mac(message string) string {
	h := hmac.New(sha512.New384, s.k)
	h.Write([]byte(message))
	return hex.EncodeToString(h.Sum(nil))
}

// seal encrypts a payload with K: base64 of IV, AES-256-GCM ciphertext and tag.
func (s shares) seal(random io.Reader, plaintext []byte) (string, error) {
	block, err := aes.NewCipher(s.k)
	if err != nil {
		return "", fmt.Errorf("encrypt payload: %w", err)
	}
	gcm, err := cipher.NewGCMWithNonceSize(block, ivSize)
	if err != nil {
		return "", fmt.Errorf("encrypt payload: %w", err)
	}
	iv := make([]byte, ivSize, ivSize+len(plaintext)+tagSize)
	if _, err := io.ReadFull(random, iv); err != nil {
		return "", fmt.Errorf("draw IV: %w", err)
	}
	return base64.StdEncoding.EncodeToString(gcm.Seal(iv, iv, plaintext, nil)), nil
}

// encryptU is U for the holder of the transport key: base64 RSAES-OAEP with SHA-1, as the agents decrypt it.
func (s shares) encryptU(random io.Reader, transport *rsa.PublicKey) (string, error) {
	ciphertext, err := rsa.EncryptOAEP(sha1.New(), random, transport, s.u, nil)
	if err != nil {
		return "", fmt.Errorf("encrypt U: %w", err)
	}
	return base64.StdEncoding.EncodeToString(ciphertext), nil
}

// randomText is n characters of [A-Za-z0-9], the alphabet that agents accept in nonces and challenges.
func randomText(random io.Reader, n int) (string, error) {
	const alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789"
	const fair = 256 - 256%len(alphabet) // bytes from here on would favour the first characters
	text := make([]byte, 0, n)
	for buf := make([]byte, 2*n); len(text) < n; {
		if _, err := io.ReadFull(random, buf); err != nil {
			return "", fmt.Errorf("draw nonce: %w", err)
		}
		for _, b := range buf {
			if int(b) < fair && len(text) < n {
				text = append(text, alphabet[int(b)%len(alphabet)])
			}
		}
	}
	return string(text), nil
}

// Package notify tells others that a machine is no longer to be trusted: the signed message, and the channels
// that carry it. What is sent when, and again, is the caller's: it keeps the outbox.
package notify

import (
	"bytes"
	"crypto"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"time"

	"keylime/internal/api"
)

// The types of message that receivers tell apart.
const (
	TypeRevocation = "revocation" // evidence failed its appraisal
	TypeCommError  = "comm_error" // an agent that attested before cannot be reached any more
)

// Lifetime is how long a message is worth delivering and believing.
const Lifetime = 24 * time.Hour

// EventTime formats a time as the wire has it: C asctime without a zone, in the location that t carries.
func EventTime(t time.Time) string { return t.Format("Mon Jan _2 15:04:05 2006") }

// Encode returns the body that every channel carries: the message as JSON text and a signature over exactly
// these bytes. A nil key leaves the signature empty; any other key must be RSA.
func Encode(rand io.Reader, r api.Revocation, key crypto.Signer) ([]byte, error) {
	msg, err := compact(r)
	if err != nil {
		return nil, fmt.Errorf("encode revocation message: %w", err)
	}
	n := api.Notification{Msg: string(msg)}
	if key != nil {
		if n.Signature, err = sign(rand, msg, key); err != nil {
			return nil, fmt.Errorf("sign revocation message: %w", err)
		}
	}
	body, err := compact(n)
	if err != nil {
		return nil, fmt.Errorf("encode revocation message: %w", err)
	}
	return body, nil
}

// sign is RSASSA-PSS over SHA-256 with the largest salt that the key allows: receivers of the pull protocol
// verify with exactly that length.
func sign(rand io.Reader, msg []byte, key crypto.Signer) (string, error) {
	if _, ok := key.Public().(*rsa.PublicKey); !ok {
		return "", errors.New("the revocation key is not an RSA key")
	}
	digest := sha256.Sum256(msg)
	sig, err := key.Sign(rand, digest[:], &rsa.PSSOptions{SaltLength: rsa.PSSSaltLengthAuto, Hash: crypto.SHA256})
	if err != nil {
		return "", err
	}
	return base64.StdEncoding.EncodeToString(sig), nil
}

// compact is JSON without HTML escapes and without a final newline.
func compact(v any) ([]byte, error) {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	if err := e.Encode(v); err != nil {
		return nil, err
	}
	return bytes.TrimSuffix(b.Bytes(), []byte("\n")), nil
}

package ear

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/sha256"
	"encoding/asn1"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/big"
)

// MediaType is that of a token (RFC 9782).
const MediaType = "application/eat+jwt"

// Signer signs tokens: compact JWS with ES256 (RFC 7515, 7518). It is written out here because one algorithm and one
// serialisation take few lines, while libraries bring all of JOSE along, of which nothing is to be accepted. It is immutable
// and safe for concurrent use.
type Signer struct {
	key  *ecdsa.PrivateKey
	jwk  jwk
	rand io.Reader
}

// jwk is a public key (RFC 7517). The first four members, in this order, are those that its thumbprint is made of.
type jwk struct {
	Curve string `json:"crv"`
	Type  string `json:"kty"`
	X     string `json:"x"`
	Y     string `json:"y"`
	ID    string `json:"kid,omitempty"`
	Alg   string `json:"alg,omitempty"`
	Use   string `json:"use,omitempty"`
}

// NewSigner signs with an EC key of P-256.
func NewSigner(key *ecdsa.PrivateKey, rand io.Reader) (*Signer, error) {
	if key.Curve != elliptic.P256() {
		return nil, fmt.Errorf("tokens are signed with ES256: want an EC key of P-256, not of %s", key.Curve.Params().Name)
	}
	point, err := key.PublicKey.Bytes()
	if err != nil {
		return nil, fmt.Errorf("key of tokens: %w", err)
	}
	k := jwk{Curve: "P-256", Type: "EC", X: base64url(point[1:33]), Y: base64url(point[33:])} // SEC 1: 04 ‖ X ‖ Y
	text, err := json.Marshal(k)
	if err != nil {
		return nil, err
	}
	thumbprint := sha256.Sum256(text) // RFC 7638
	k.ID, k.Alg, k.Use = base64url(thumbprint[:]), "ES256", "sig"
	return &Signer{key, k, rand}, nil
}

// JWKS is the set of keys that tokens may be signed with, as JSON (RFC 7517).
func (s *Signer) JWKS() ([]byte, error) {
	return json.Marshal(map[string][]jwk{"keys": {s.jwk}})
}

// Sign makes the token of the claims.
func (s *Signer) Sign(c Claims) (string, error) {
	header, err := json.Marshal(map[string]string{"alg": "ES256", "typ": "eat+jwt", "kid": s.jwk.ID})
	if err != nil {
		return "", err
	}
	payload, err := json.Marshal(c)
	if err != nil {
		return "", fmt.Errorf("encode the claims of a token: %w", err)
	}
	signed := base64url(header) + "." + base64url(payload)
	digest := sha256.Sum256([]byte(signed))
	der, err := ecdsa.SignASN1(s.rand, s.key, digest[:])
	if err != nil {
		return "", fmt.Errorf("sign a token: %w", err)
	}
	signature, err := fixedWidth(der)
	if err != nil {
		return "", err
	}
	return signed + "." + base64url(signature), nil
}

// fixedWidth turns a signature in DER into R ‖ S, as JWS has it (RFC 7518, 3.4).
func fixedWidth(der []byte) ([]byte, error) {
	var n struct{ R, S *big.Int }
	if rest, err := asn1.Unmarshal(der, &n); err != nil || len(rest) > 0 {
		return nil, errors.New("sign a token: the signature is not DER")
	}
	out := make([]byte, 64)
	n.R.FillBytes(out[:32])
	n.S.FillBytes(out[32:])
	return out, nil
}

func base64url(b []byte) string { return base64.RawURLEncoding.EncodeToString(b) }

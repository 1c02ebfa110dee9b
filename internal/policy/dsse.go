package policy

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	"keylime/internal/strictjson"
)

// PayloadType is the type of what a runtime policy's envelope holds.
const PayloadType = "application/vnd.keylime+json"

// malformed begins the REST API's text for what breaks the form of a runtime policy.
const malformed = "Runtime policy is malformatted: "

// Envelope is a signed runtime policy: a DSSE envelope (Dead Simple Signing Envelope, protocol 1.0).
type Envelope struct {
	PayloadType string
	Payload     []byte
	Signatures  []Signature
}

// Signature is one signature over type and payload.
type Signature struct {
	// KeyID is a hint which key made it: PublicKey.ID, or the base64 of a PEM certificate. It is never a reason to
	// trust a key, nor is that certificate.
	KeyID string
	Sig   []byte // ECDSA with SHA-256 whatever the curve, ASN.1 DER; empty when the text held none that can be read
}

// ParseEnvelope reads an envelope. Names that DSSE does not define are left out of account, as DSSE asks for; all else
// is strict: no name twice, base64 (standard or URL-safe) with padding and without line breaks, at least one signature.
// The error is an *Error. Nothing is verified.
func ParseEnvelope(text []byte) (*Envelope, error) {
	var e Envelope
	missing := map[string]bool{"payload": true, "payloadType": true, "signatures": true}
	r := strictjson.NewReader(string(text), maxDepth)
	err := r.Object(func(name string) (err error) {
		delete(missing, name)
		switch name {
		case "payload":
			e.Payload, err = readBase64(r, name)
		case "payloadType":
			e.PayloadType, err = readText(r, name, maxKeyID)
		case "signatures":
			e.Signatures, err = readSignatures(r)
		default:
			err = r.Skip()
		}
		return err
	})
	if err == nil {
		err = r.End()
	}
	for _, name := range []string{"payload", "payloadType", "signatures"} {
		if err == nil && missing[name] {
			err = fmt.Errorf("'%s' is a required property", name)
		}
	}
	if err == nil && len(e.Signatures) == 0 {
		err = errors.New("it holds no signature")
	}
	if err != nil {
		return nil, &Error{malformed + "DSSE envelope: " + err.Error()}
	}
	return &e, nil
}

func readSignatures(r *strictjson.Reader) ([]Signature, error) {
	var list []Signature
	err := r.Array(func() error {
		at := fmt.Sprintf("signatures[%d]", len(list))
		if len(list) == maxSignatures {
			return fmt.Errorf("%s: at most %d signatures are read", at, maxSignatures)
		}
		var s Signature
		err := r.Object(func(name string) (err error) {
			switch name {
			case "keyid":
				s.KeyID, err = readText(r, at+".keyid", maxKeyID)
			case "sig":
				s.Sig, err = readSig(r)
			default:
				err = r.Skip()
			}
			return err
		})
		list = append(list, s)
		return err
	})
	return list, err
}

// readSig reads what may be a signature. One that is none makes a signed policy whose signature is bad, not a text that
// is no policy.
func readSig(r *strictjson.Reader) ([]byte, error) {
	s, err := r.String()
	if err != nil {
		return nil, err
	}
	sig, err := decodeBase64(s)
	if err != nil || len(sig) > maxSig {
		return nil, nil
	}
	return sig, nil
}

func readText(r *strictjson.Reader, name string, most int) (string, error) {
	s, err := r.String()
	if err == nil && len(s) > most {
		err = fmt.Errorf("%s has %d bytes, at most %d are read", name, len(s), most)
	}
	return strings.Clone(s), err
}

func readBase64(r *strictjson.Reader, name string) ([]byte, error) {
	s, err := r.String()
	if err != nil {
		return nil, err
	}
	b, err := decodeBase64(s)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	return b, nil
}

// decodeBase64 takes no hexadecimal, though its digits are base64's too: one text, one meaning.
func decodeBase64(s string) ([]byte, error) {
	if strings.ContainsAny(s, "\r\n") { // which package base64 would skip
		return nil, errors.New("line break in base64")
	}
	b, err := base64.StdEncoding.Strict().DecodeString(s)
	if err == nil {
		return b, nil
	}
	if b, urlErr := base64.URLEncoding.Strict().DecodeString(s); urlErr == nil {
		return b, nil
	}
	return nil, err
}

// Encode is the envelope's JSON, with names and spaces as Keylime's tools write them.
func (e *Envelope) Encode() []byte {
	var b bytes.Buffer
	b.WriteString(`{"payload": "` + base64.StdEncoding.EncodeToString(e.Payload) + `", "payloadType": ` + quoteJSON(e.PayloadType) + `, "signatures": [`)
	for i, s := range e.Signatures {
		if i > 0 {
			b.WriteString(", ")
		}
		b.WriteByte('{')
		if s.KeyID != "" {
			b.WriteString(`"keyid": ` + quoteJSON(s.KeyID) + `, `)
		}
		b.WriteString(`"sig": "` + base64.StdEncoding.EncodeToString(s.Sig) + `"}`)
	}
	b.WriteString("]}")
	return b.Bytes()
}

func quoteJSON(s string) string {
	quoted, err := json.Marshal(s)
	if err != nil {
		panic("policy: a string cannot be encoded: " + err.Error())
	}
	return string(quoted)
}

// check holds the envelope to carrying a policy, for a signature over something else of the signer's is none over this,
// and to having signatures.
func (e *Envelope) check() error {
	switch {
	case e.PayloadType != PayloadType:
		return fmt.Errorf("DSSE envelope: payloadType %q is not %q", clipText(e.PayloadType), PayloadType)
	case len(e.Signatures) == 0:
		return errors.New("DSSE envelope: it holds no signature")
	}
	for i, s := range e.Signatures {
		if len(s.Sig) == 0 {
			return fmt.Errorf("DSSE envelope: signatures[%d].sig is not base64 of 1 to %d bytes", i, maxSig)
		}
	}
	return nil
}

func clipText(s string) string {
	const most = 64
	if len(s) > most {
		return strings.ToValidUTF8(s[:most], "") + "…"
	}
	return s
}

// signedBytes are what is signed: DSSE's pre-authentication encoding, in which lengths keep type and payload apart.
func (e *Envelope) signedBytes() []byte {
	head := fmt.Sprintf("DSSEv1 %d %s %d ", len(e.PayloadType), e.PayloadType, len(e.Payload))
	return append([]byte(head), e.Payload...)
}

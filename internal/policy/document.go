package policy

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"

	"keylime/internal/strictjson"
)

// Document is a runtime policy as it is uploaded, kept and given a checksum: the policy itself, or a DSSE envelope that
// holds it.
type Document struct {
	Text     []byte    // as uploaded
	Policy   []byte    // the policy's own text: Text, or what the envelope holds
	Envelope *Envelope // nil: the policy is not signed
}

// OpenDocument tells a plain policy from a signed one. Every reader of runtime policies begins here, CompileRuntime
// included, so that a signed policy means the same wherever it is used. Nothing is verified: see Envelope.Verify.
//
// An envelope is an object whose "payload" is there and not empty, as in the Keylime REST API. The error is an *Error.
func OpenDocument(text []byte) (Document, error) {
	switch {
	case len(text) == 0:
		return Document{}, &Error{"No IMA policy provided!"}
	case len(text) > MaxRuntimeBytes:
		return Document{}, &Error{fmt.Sprintf("Runtime policy of %d bytes exceeds %d", len(text), MaxRuntimeBytes)}
	}
	signed, err := hasPayload(text)
	if err != nil {
		return Document{}, &Error{"Runtime policy is not valid JSON! " + err.Error()}
	}
	if !signed {
		return Document{Text: text, Policy: text}, nil
	}
	e, err := ParseEnvelope(text)
	if err != nil {
		return Document{}, err
	}
	return Document{Text: text, Policy: e.Payload, Envelope: e}, nil
}

// hasPayload reads the names of the outermost object, and is content with any other JSON.
func hasPayload(text []byte) (bool, error) {
	found := false
	r := strictjson.NewReader(string(text), maxDepth)
	if r.Kind() != strictjson.Object {
		return false, skipAll(r)
	}
	err := r.Object(func(name string) error {
		if name != "payload" {
			return r.Skip()
		}
		value, err := r.Raw()
		switch value {
		case "", `""`, "null", "false", "0", "[]", "{}":
		default:
			found = true
		}
		return err
	})
	if err == nil {
		err = r.End()
	}
	return found, err
}

func skipAll(r *strictjson.Reader) error {
	if err := r.Skip(); err != nil {
		return err
	}
	return r.End()
}

// Digest is the hex SHA-256 of the text as uploaded.
func (d Document) Digest() string {
	sum := sha256.Sum256(d.Text)
	return hex.EncodeToString(sum[:])
}

// Compile validates and compiles the policy. The error is an *Error, as of CompileRuntime.
func (d Document) Compile(allowed ...Extension) (*Runtime, error) {
	if e := d.Envelope; e != nil {
		if err := e.check(); err != nil {
			return nil, &Error{malformed + err.Error()}
		}
	}
	r, err := compileRuntime(d.Policy, allowed)
	if err != nil {
		return nil, err
	}
	r.digest = d.Digest()
	return r, nil
}

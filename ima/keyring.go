package ima

import (
	"encoding/base64"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"keylime/internal/strictjson"
)

// Limits on a keyring's text.
const (
	maxKeyringText = 1 << 20
	maxKeys        = 1024 // distributions sign with a handful
	maxKeyringJSON = 8    // levels that the text nests
)

// Keyring is a list of keys. A nil Keyring has none. It is immutable; With makes a longer one.
type Keyring struct{ keys []*Key }

// NewKeyring makes a keyring; a key that stands twice is taken once.
func NewKeyring(keys ...*Key) *Keyring { return (&Keyring{}).With(keys...) }

// With is the keyring with more keys behind its own.
func (r *Keyring) With(keys ...*Key) *Keyring {
	joined := &Keyring{slices.Clip(r.Keys())}
	for _, k := range keys {
		if !slices.ContainsFunc(joined.keys, k.Equal) {
			joined.keys = append(joined.keys, k)
		}
	}
	return joined
}

// Keys are the keys in order. The slice must not be modified.
func (r *Keyring) Keys() []*Key {
	if r == nil {
		return nil
	}
	return r.keys
}

// Verify reports whether the entry has a signature of its file's digest by a key of the keyring. known spares it
// signatures that it has found good before; nil is none.
func (r *Keyring) Verify(e *Entry, known *SignatureCache) bool {
	s, ok := readSignature(e)
	if !ok {
		return false
	}
	for _, k := range r.Keys() {
		if k.id == s.keyID && known.verify(k, s, e.Digest) {
			return true
		}
	}
	return false
}

// String is the keyring in Keylime's JSON: {"pubkeys": [base64 of DER SubjectPublicKeyInfo, …], "keyids": [number, …]}.
func (r *Keyring) String() string {
	var pubkeys, ids []string
	for _, k := range r.Keys() {
		pubkeys = append(pubkeys, strconv.Quote(base64.StdEncoding.EncodeToString(k.spki)))
		ids = append(ids, strconv.FormatUint(uint64(k.id), 10))
	}
	return `{"pubkeys": [` + strings.Join(pubkeys, ", ") + `], "keyids": [` + strings.Join(ids, ", ") + `]}`
}

// ParseKeyring reads the JSON form, which may be wrapped in a JSON string once more, as older tools do. An empty text
// is a keyring without keys. Keys that cannot be used are left out, and unusable says why: a keyring may hold keys for
// files that an older kernel signed. err is a fault of the form.
func ParseKeyring(text string) (r *Keyring, unusable []error, err error) {
	switch {
	case text == "":
		return &Keyring{}, nil, nil
	case len(text) > maxKeyringText:
		return nil, nil, fmt.Errorf("keyring of %d bytes exceeds %d", len(text), maxKeyringText)
	}
	if in := strictjson.NewReader(text, maxKeyringJSON); in.Kind() == strictjson.String {
		if text, err = in.String(); err == nil {
			err = in.End()
		}
		if err != nil {
			return nil, nil, fmt.Errorf("keyring is not JSON: %w", err)
		}
	}
	p := keyringReader{in: strictjson.NewReader(text, maxKeyringJSON)}
	if err := p.read(); err != nil {
		return nil, nil, fmt.Errorf("keyring: %w", err)
	}
	r = &Keyring{}
	for i, encoded := range p.pubkeys {
		key, err := keyOf(encoded)
		if err != nil {
			unusable = append(unusable, fmt.Errorf("pubkeys[%d]: %w", i, err))
			continue
		}
		if i < len(p.ids) {
			key = key.WithID(p.ids[i])
		}
		r = r.With(key)
	}
	return r, unusable, nil
}

func keyOf(encoded string) (*Key, error) {
	der, err := base64.StdEncoding.DecodeString(encoded)
	if err != nil {
		return nil, fmt.Errorf("not base64: %w", err)
	}
	return ParseKey(der)
}

// keyringReader holds a text to the schema.
type keyringReader struct {
	in      *strictjson.Reader
	pubkeys []string
	ids     []uint32
}

var errKeyringForm = errors.New(`want an object with "pubkeys", a list of strings, and "keyids", a list of numbers`)

func (p *keyringReader) read() error {
	var pubkeys, ids bool
	err := p.in.Object(func(name string) error {
		switch name {
		case "pubkeys":
			pubkeys = true
			return p.in.Array(p.pubkey)
		case "keyids":
			ids = true
			return p.in.Array(p.id)
		case "meta":
			return p.meta()
		}
		return p.in.Skip()
	})
	if err == nil {
		err = p.in.End()
	}
	if err == nil && !(pubkeys && ids) {
		err = errKeyringForm
	}
	return err
}

func (p *keyringReader) pubkey() error {
	s, err := p.in.String()
	if len(p.pubkeys) == maxKeys {
		return fmt.Errorf("more than %d keys", maxKeys)
	}
	p.pubkeys = append(p.pubkeys, s)
	return err
}

// id reads a key's id. One that is no 32-bit number names no key, and is computed like one that is missing.
func (p *keyringReader) id() error {
	text, err := p.in.Number()
	if err != nil {
		return err
	}
	n, err := strconv.ParseFloat(text, 64)
	if err != nil || n != float64(int64(n)) {
		return errKeyringForm
	}
	if len(p.ids) == maxKeys {
		return fmt.Errorf("more than %d key ids", maxKeys)
	}
	id := uint32(0)
	if n > 0 && n < 1<<32 {
		id = uint32(n)
	}
	p.ids = append(p.ids, id)
	return nil
}

// meta holds the version, where there is one, to being a whole number from 1.
func (p *keyringReader) meta() error {
	return p.in.Object(func(name string) error {
		if name != "version" {
			return p.in.Skip()
		}
		text, err := p.in.Number()
		if err != nil {
			return err
		}
		if n, err := strconv.ParseFloat(text, 64); err != nil || n < 1 || n != float64(int64(n)) {
			return errors.New("meta: version is not a whole number from 1")
		}
		return nil
	})
}

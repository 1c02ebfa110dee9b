package attest

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"strconv"
	"unicode/utf8"

	"keylime/internal/policy"
)

// Contexts of failures: the keys are Keylime's, which receivers of revocation messages read; line and path are ours.
// Values are encoded only when the failure is recorded, and may point into evidence until then.
type (
	message struct {
		Message string `json:"message"`
	}
	quoteContext struct {
		Message string `json:"message"`
		Error   string `json:"error,omitempty"`
		Data    string `json:"data,omitempty"`
	}
	missingContext struct {
		Context string `json:"context"`
		Data    []int  `json:"data"`
	}
	valueContext struct {
		Got      hexBytes `json:"got"`
		Expected hexBytes `json:"expected"`
	}
	pcrContext struct {
		Context  string   `json:"context"`
		Got      hexBytes `json:"got"`
		Expected []string `json:"expected"`
	}
	entryNumberContext struct {
		Message  string `json:"message"`
		Got      uint64 `json:"got"`
		Expected uint64 `json:"expected"`
	}
	progressContext struct {
		Message string `json:"message"`
		Proven  uint64 `json:"proven"`
		Shown   uint64 `json:"shown"`
	}
	lineContext struct {
		Message string `json:"message"`
		Line    uint64 `json:"line"`
		Entry   text   `json:"entry"`
	}
	hashContext struct {
		Message  text   `json:"message"`
		Expected any    `json:"expected,omitempty"`
		Got      any    `json:"got"`
		Line     uint64 `json:"line"`
	}
	fileContext struct {
		Message text     `json:"message"`
		Got     hexBytes `json:"got,omitempty"`
		Line    uint64   `json:"line"`
	}
	bootLogContext struct {
		Context string `json:"context"`
		Data    string `json:"data"`
	}
	bootPCRContext struct {
		Context  string   `json:"context"`
		Got      hexBytes `json:"got"`
		Expected hexBytes `json:"expected"`
	}
	bootPolicyContext struct {
		Context string `json:"context"`
		Policy  string `json:"policy"`
		Digest  string `json:"policy_digest"`
		Reason  text   `json:"reason"`
	}
	deviceContext struct {
		Message  string `json:"message"`
		Device   string `json:"device,omitempty"`
		Context  string `json:"context,omitempty"`
		Got      string `json:"got,omitempty"`
		Expected string `json:"expected,omitempty"` // JSON
		Line     uint64 `json:"line,omitempty"`
	}
	digestContext struct {
		Message  string   `json:"message"`
		Path     text     `json:"path"`
		Got      hexBytes `json:"got"`
		Expected expected `json:"expected"`
		Line     uint64   `json:"line"`
	}
)

// encodeContext makes the JSON text of a context, an object. A string s becomes {"message": s}.
func encodeContext(context any) string {
	if s, ok := context.(string); ok {
		context = message{s}
	}
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false) // paths stay readable
	if err := e.Encode(context); err != nil {
		panic("attest: context cannot be encoded: " + err.Error()) // no field of a context can fail
	}
	return string(bytes.TrimSuffix(b.Bytes(), []byte("\n")))
}

// algorithmContext is that of an algorithm which the evidence must not use.
func algorithmContext(kind, name, why string) any {
	return quoteContext{
		Message: "TPM Quote is using an unaccepted " + kind + " algorithm: " + strconv.Quote(name) + " is " + why,
		Data:    name,
	}
}

// hexBytes is encoded as lower-case hex.
type hexBytes []byte

func (h hexBytes) MarshalText() ([]byte, error) { return hex.AppendEncode(nil, h), nil }

// text is what we say, followed by bytes from evidence, PATH_MAX at most. They need not be UTF-8: then they are shown
// as Go quotes them.
type text struct {
	prefix string
	bytes  []byte
}

func (t text) MarshalText() ([]byte, error) {
	const most = 4096
	shown := string(t.bytes[:min(len(t.bytes), most)])
	if !utf8.ValidString(shown) {
		shown = strconv.Quote(shown)
	}
	return []byte(t.prefix + shown), nil
}

// expected is encoded as the list of digests that the policy would have accepted.
type expected policy.Finding

func (e expected) MarshalJSON() ([]byte, error) {
	const most = 20
	list := policy.Finding(e).Expected()
	return json.Marshal(list[:min(len(list), most)])
}

package config

// option declares one option of a role: where its value goes, its default, and what it means.
type option struct {
	// name is Keylime's option name; "section.name" for a section of the role's file that is not the role's own.
	name  string
	value value
	doc   string
}

// value is the destination of an option and the rules of its kind.
type value interface {
	// set takes a string, as INI files, environment and flags give it, or a TOML value (string, bool, int64,
	// float64, []any, map[string]any). A refused value leaves the destination unchanged.
	set(raw any) error
	// toml is the present value as TOML text.
	toml() string
	// form says what set accepts, for messages and the reference.
	form() string
}

// Secret is a string that prints as [redacted]. Convert with string(s) where it is used.
type Secret string

const redacted = "[redacted]"

func (s Secret) String() string {
	if s == "" {
		return ""
	}
	return redacted
}

// GoString keeps %#v from printing the secret.
func (s Secret) GoString() string { return s.String() }

// MarshalText keeps encoders from printing the secret.
func (s Secret) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

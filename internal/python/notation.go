// Package python writes JSON values as Python prints them: Keylime's policies and the lines that scripts read have that form.
package python

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strings"
	"unicode"
	"unicode/utf16"
)

// Notation is how one of Python's printers writes a JSON value. Scripts match these texts literally.
type Notation struct {
	null, yes, no string
	quote         func(string) string
}

var (
	// JSON is json.dumps: ASCII only, a space after each comma and colon.
	JSON = Notation{null: "null", yes: "true", no: "false", quote: dumpsString}
	// Repr is what print shows of a dict.
	Repr = Notation{null: "None", yes: "True", no: "False", quote: reprString}
)

const maxNotationDepth = 64

// Render rewrites JSON text in the notation; members keep their order.
func (n Notation) Render(text []byte) (string, error) {
	dec := json.NewDecoder(bytes.NewReader(text))
	dec.UseNumber()
	var out strings.Builder
	if err := n.value(dec, &out, 0); err != nil {
		return "", fmt.Errorf("render JSON: %w", err)
	}
	return out.String(), nil
}

// Of renders a Go value by way of its JSON.
func (n Notation) Of(v any) string {
	var text bytes.Buffer
	enc := json.NewEncoder(&text)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(v); err != nil {
		return n.quote(err.Error())
	}
	s, err := n.Render(text.Bytes())
	if err != nil {
		return n.quote(err.Error())
	}
	return s
}

// Quote writes a string.
func (n Notation) Quote(s string) string { return n.quote(s) }

func (n Notation) value(dec *json.Decoder, out *strings.Builder, depth int) error {
	if depth > maxNotationDepth {
		return fmt.Errorf("nested deeper than %d", maxNotationDepth)
	}
	tok, err := dec.Token()
	if err != nil {
		return err
	}
	switch v := tok.(type) {
	case json.Delim:
		return n.compound(dec, out, v, depth)
	case string:
		out.WriteString(n.quote(v))
	case json.Number:
		out.WriteString(v.String())
	case bool:
		if v {
			out.WriteString(n.yes)
		} else {
			out.WriteString(n.no)
		}
	case nil:
		out.WriteString(n.null)
	}
	return nil
}

// compound renders an array or object whose opening delimiter has been read.
func (n Notation) compound(dec *json.Decoder, out *strings.Builder, open json.Delim, depth int) error {
	out.WriteString(open.String())
	for i := 0; dec.More(); i++ {
		if i > 0 {
			out.WriteString(", ")
		}
		if open == '{' {
			key, err := dec.Token()
			if err != nil {
				return err
			}
			out.WriteString(n.quote(key.(string)) + ": ")
		}
		if err := n.value(dec, out, depth+1); err != nil {
			return err
		}
	}
	end, err := dec.Token()
	if err != nil {
		return err
	}
	out.WriteString(end.(json.Delim).String())
	return nil
}

func dumpsString(s string) string {
	var out strings.Builder
	out.WriteByte('"')
	for _, r := range s {
		switch {
		case r == '"' || r == '\\':
			out.WriteByte('\\')
			out.WriteRune(r)
		case shortEscape(r) != "":
			out.WriteString(shortEscape(r))
		case r == '\b':
			out.WriteString(`\b`)
		case r == '\f':
			out.WriteString(`\f`)
		case r >= ' ' && r <= '~':
			out.WriteRune(r)
		default:
			for _, unit := range utf16.Encode([]rune{r}) {
				fmt.Fprintf(&out, `\u%04x`, unit)
			}
		}
	}
	out.WriteByte('"')
	return out.String()
}

// reprString quotes with ', unless the text has ' and no ".
func reprString(s string) string {
	quote := '\''
	if strings.ContainsRune(s, '\'') && !strings.ContainsRune(s, '"') {
		quote = '"'
	}
	var out strings.Builder
	out.WriteRune(quote)
	for _, r := range s {
		switch {
		case r == quote || r == '\\':
			out.WriteByte('\\')
			out.WriteRune(r)
		case shortEscape(r) != "":
			out.WriteString(shortEscape(r))
		case unicode.IsPrint(r):
			out.WriteRune(r)
		case r < 0x100:
			fmt.Fprintf(&out, `\x%02x`, r)
		case r < 0x10000:
			fmt.Fprintf(&out, `\u%04x`, r)
		default:
			fmt.Fprintf(&out, `\U%08x`, r)
		}
	}
	out.WriteRune(quote)
	return out.String()
}

// shortEscape is the escape that both printers use for the three usual control characters; "" for any other.
func shortEscape(r rune) string {
	switch r {
	case '\n':
		return `\n`
	case '\r':
		return `\r`
	case '\t':
		return `\t`
	}
	return ""
}

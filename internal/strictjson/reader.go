// Package strictjson reads JSON (RFC 8259) without the liberties that encoding/json takes: a name that stands twice
// in an object, invalid UTF-8, a lone surrogate, nesting beyond a limit and anything after the value are errors.
//
// Reader walks a document without building a tree; Check validates one before another decoder reads it.
package strictjson

import (
	"fmt"
	"strconv"
	"strings"
	"unicode/utf16"
	"unicode/utf8"
)

// Kind is the type of a JSON value, told by its first byte.
type Kind byte

// The kinds; Invalid stands for a byte that starts no value, and for the end of input.
const (
	Invalid Kind = iota
	Object
	Array
	String
	Number
	Bool
	Null
)

// Error is a violation of the grammar or of this package's rules.
type Error struct {
	Offset int // byte offset into the document
	Text   string
}

func (e *Error) Error() string { return fmt.Sprintf("byte %d: %s", e.Offset, e.Text) }

// Reader walks one document. The first error is final: every later call returns it.
type Reader struct {
	doc   string
	pos   int
	depth int // levels still allowed
	err   error
}

// NewReader returns a reader of a document whose objects and arrays nest at most maxDepth levels.
func NewReader(doc string, maxDepth int) *Reader {
	return &Reader{doc: doc, depth: maxDepth}
}

// Check reports whether the document is one valid value that obeys the rules of this package.
func Check(doc []byte, maxDepth int) error {
	r := NewReader(string(doc), maxDepth)
	if err := r.Skip(); err != nil {
		return err
	}
	return r.End()
}

// Kind tells what the next value is, and moves to its first byte.
func (r *Reader) Kind() Kind {
	if r.err != nil {
		return Invalid
	}
	r.space()
	if r.pos == len(r.doc) {
		return Invalid
	}
	switch c := r.doc[r.pos]; {
	case c == '{':
		return Object
	case c == '[':
		return Array
	case c == '"':
		return String
	case c == 't' || c == 'f':
		return Bool
	case c == 'n':
		return Null
	case c == '-' || (c >= '0' && c <= '9'):
		return Number
	}
	return Invalid
}

// Object reads an object, calling member with each name. member must read the value, or skip it.
func (r *Reader) Object(member func(name string) error) error {
	if err := r.open('{', "an object"); err != nil {
		return err
	}
	names := map[string]struct{}{}
	for first := true; !r.close('}', first); first = false {
		r.space()
		at := r.pos
		name, err := r.String()
		if err != nil {
			return err
		}
		if _, twice := names[name]; twice {
			r.pos = at
			return r.fail("name %q stands twice in one object", clip(name))
		}
		names[name] = struct{}{}
		if r.space(); !r.take(':') {
			return r.fail("want ':' after a name")
		}
		if err := r.value(func() error { return member(name) }); err != nil {
			return err
		}
	}
	return r.err
}

// Array reads an array, calling element for each of its values. element must read the value, or skip it.
func (r *Reader) Array(element func() error) error {
	if err := r.open('[', "an array"); err != nil {
		return err
	}
	for first := true; !r.close(']', first); first = false {
		if err := r.value(element); err != nil {
			return err
		}
	}
	return r.err
}

// value runs the callback for one value and holds it to reading something.
func (r *Reader) value(read func() error) error {
	before := r.pos
	if err := read(); err != nil {
		if r.err == nil {
			r.err = err
		}
		return err
	}
	if r.err == nil && r.pos == before {
		return r.fail("want a value")
	}
	return r.err
}

// open enters an object or array.
func (r *Reader) open(bracket byte, what string) error {
	if r.err != nil {
		return r.err
	}
	if r.space(); !r.take(bracket) {
		return r.fail("want %s", what)
	}
	if r.depth == 0 {
		return r.fail("nested too deeply")
	}
	r.depth--
	return nil
}

// close reports whether the container ends here (or reading failed); otherwise it has consumed the comma that must
// stand between two members.
func (r *Reader) close(bracket byte, first bool) bool {
	if r.err != nil {
		return true
	}
	r.space()
	if r.take(bracket) {
		r.depth++
		return true
	}
	if !first && !r.take(',') {
		_ = r.fail("want ',' or %q", bracket)
		return true
	}
	return false
}

// Bool reads true or false.
func (r *Reader) Bool() (bool, error) {
	if r.word("true") {
		return true, nil
	}
	if r.word("false") {
		return false, nil
	}
	return false, r.fail("want true or false")
}

// Null reads null.
func (r *Reader) Null() error {
	if r.word("null") {
		return nil
	}
	return r.fail("want null")
}

// word consumes a literal if it stands here.
func (r *Reader) word(w string) bool {
	if r.err != nil {
		return false
	}
	r.space()
	if !strings.HasPrefix(r.doc[r.pos:], w) {
		return false
	}
	r.pos += len(w)
	return true
}

// Number reads a number and returns its text.
func (r *Reader) Number() (string, error) {
	if r.err != nil {
		return "", r.err
	}
	r.space()
	start := r.pos
	r.take('-')
	if !r.take('0') && r.digits() == 0 {
		return "", r.fail("want a number")
	}
	if r.take('.') && r.digits() == 0 {
		return "", r.fail("want digits after the decimal point")
	}
	if r.take('e') || r.take('E') {
		if !r.take('+') {
			r.take('-')
		}
		if r.digits() == 0 {
			return "", r.fail("want digits in the exponent")
		}
	}
	return r.doc[start:r.pos], nil
}

func (r *Reader) digits() int {
	start := r.pos
	for r.pos < len(r.doc) && r.doc[r.pos] >= '0' && r.doc[r.pos] <= '9' {
		r.pos++
	}
	return r.pos - start
}

// String reads a string. Without escapes the result shares memory with the document.
func (r *Reader) String() (string, error) {
	if r.err != nil {
		return "", r.err
	}
	if r.space(); !r.take('"') {
		return "", r.fail("want a string")
	}
	start := r.pos
	for ; r.pos < len(r.doc); r.pos++ {
		switch c := r.doc[r.pos]; {
		case c == '"':
			s := r.doc[start:r.pos]
			if !utf8.ValidString(s) {
				return "", r.fail("string is not valid UTF-8")
			}
			r.pos++
			return s, nil
		case c == '\\':
			s, err := r.escaped(append([]byte(nil), r.doc[start:r.pos]...))
			return string(s), err
		case c < 0x20:
			return "", r.fail("control character in a string")
		}
	}
	return "", r.fail("string does not end")
}

// Text is String for long texts: the result is the caller's own, made with one allocation.
func (r *Reader) Text() ([]byte, error) {
	if r.err != nil {
		return nil, r.err
	}
	if r.space(); !r.take('"') {
		return nil, r.fail("want a string")
	}
	size := 0
	for rest := r.doc[r.pos:]; size < len(rest) && rest[size] != '"'; size++ {
		if rest[size] == '\\' {
			size++
		}
	}
	return r.escaped(make([]byte, 0, size))
}

// skipString reads a string without making one.
func (r *Reader) skipString() error {
	r.take('"')
	for start := r.pos; r.pos < len(r.doc); {
		switch c := r.doc[r.pos]; {
		case c == '"':
			if !utf8.ValidString(r.doc[start:r.pos]) {
				return r.fail("string is not valid UTF-8")
			}
			r.pos++
			return nil
		case c == '\\':
			if _, err := r.escape(); err != nil {
				return err
			}
		case c < 0x20:
			return r.fail("control character in a string")
		default:
			r.pos++
		}
	}
	return r.fail("string does not end")
}

// escaped goes on reading a string, of which s has been read, up to its end.
func (r *Reader) escaped(s []byte) ([]byte, error) {
	for r.pos < len(r.doc) {
		switch c := r.doc[r.pos]; {
		case c == '"':
			if !utf8.Valid(s) {
				return nil, r.fail("string is not valid UTF-8")
			}
			r.pos++
			return s, nil
		case c == '\\':
			char, err := r.escape()
			if err != nil {
				return nil, err
			}
			s = utf8.AppendRune(s, char)
		case c < 0x20:
			return nil, r.fail("control character in a string")
		default:
			s = append(s, c)
			r.pos++
		}
	}
	return nil, r.fail("string does not end")
}

// escape reads one escape sequence, or the two that make a surrogate pair.
func (r *Reader) escape() (rune, error) {
	if r.pos+1 == len(r.doc) {
		return 0, r.fail("string does not end")
	}
	c := r.doc[r.pos+1]
	if c != 'u' {
		i := strings.IndexByte(`"\/bfnrt`, c)
		if i < 0 {
			return 0, r.fail("unknown escape sequence")
		}
		r.pos += 2
		return rune("\"\\/\b\f\n\r\t"[i]), nil
	}
	first, err := r.utf16Unit()
	if err != nil || !utf16.IsSurrogate(first) {
		return first, err
	}
	if !strings.HasPrefix(r.doc[r.pos:], `\u`) {
		return 0, r.fail("lone surrogate")
	}
	second, err := r.utf16Unit()
	if err != nil {
		return 0, err
	}
	pair := utf16.DecodeRune(first, second)
	if pair == utf8.RuneError {
		return 0, r.fail("lone surrogate")
	}
	return pair, nil
}

// utf16Unit reads \uXXXX.
func (r *Reader) utf16Unit() (rune, error) {
	if len(r.doc)-r.pos < 6 {
		return 0, r.fail("string does not end")
	}
	// ParseUint takes no sign; with base 16 it takes no underscore either.
	unit, err := strconv.ParseUint(r.doc[r.pos+2:r.pos+6], 16, 16)
	if err != nil {
		return 0, r.fail("want four hex digits after \\u")
	}
	r.pos += 6
	return rune(unit), nil
}

// Skip reads a value of any kind, checking it like every other.
func (r *Reader) Skip() (err error) {
	switch r.Kind() {
	case Object:
		return r.Object(func(string) error { return r.Skip() })
	case Array:
		return r.Array(r.Skip)
	case String:
		err = r.skipString()
	case Number:
		_, err = r.Number()
	case Bool:
		_, err = r.Bool()
	case Null:
		err = r.Null()
	default:
		if r.pos == len(r.doc) {
			return r.fail("document ends where a value is wanted")
		}
		err = r.fail("want a value")
	}
	return err
}

// Raw reads a value of any kind and returns its text.
func (r *Reader) Raw() (string, error) {
	r.Kind()
	start := r.pos
	if err := r.Skip(); err != nil {
		return "", err
	}
	return r.doc[start:r.pos], nil
}

// End holds that nothing but white space is left.
func (r *Reader) End() error {
	if r.err != nil {
		return r.err
	}
	if r.space(); r.pos != len(r.doc) {
		return r.fail("data after the value")
	}
	return nil
}

func (r *Reader) space() {
	for r.pos < len(r.doc) {
		switch r.doc[r.pos] {
		case ' ', '\t', '\n', '\r':
			r.pos++
		default:
			return
		}
	}
}

func (r *Reader) take(c byte) bool {
	if r.pos < len(r.doc) && r.doc[r.pos] == c {
		r.pos++
		return true
	}
	return false
}

func (r *Reader) fail(format string, args ...any) error {
	if r.err == nil {
		r.err = &Error{r.pos, fmt.Sprintf(format, args...)}
	}
	return r.err
}

// clip shortens a name for an error text.
func clip(s string) string {
	const most = 40
	if len(s) > most {
		return strings.ToValidUTF8(s[:most], "") + "…"
	}
	return s
}

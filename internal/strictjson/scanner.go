package strictjson

import (
	"bytes"
	"math"
	"strconv"
	"unicode/utf16"
	"unicode/utf8"
)

// scanner walks a JSON text once, validating as it goes.
type scanner struct {
	data  []byte
	pos   int
	depth int
}

func (s *scanner) fail(reason string) error { return &SyntaxError{s.pos, reason} }

// peek is the next byte, or 0 at the end: a NUL byte is no JSON token, so the two need no telling apart.
func (s *scanner) peek() byte {
	if s.pos < len(s.data) {
		return s.data[s.pos]
	}
	return 0
}

func (s *scanner) space() {
	for s.pos < len(s.data) {
		switch s.data[s.pos] {
		case ' ', '\t', '\r', '\n':
			s.pos++
		default:
			return
		}
	}
}

func (s *scanner) end() error {
	s.space()
	if s.pos != len(s.data) {
		return s.fail("something follows the value")
	}
	return nil
}

func (s *scanner) value() error {
	switch c := s.peek(); {
	case c == '{':
		return s.object(nil)
	case c == '[':
		return s.array()
	case c == '"':
		_, err := s.str()
		return err
	case c == 't':
		return s.literal("true")
	case c == 'f':
		return s.literal("false")
	case c == 'n':
		return s.literal("null")
	case c == '-' || '0' <= c && c <= '9':
		return s.number()
	case s.pos >= len(s.data):
		return s.fail("the text ends where a value is expected")
	}
	return s.fail("expected a value")
}

func (s *scanner) literal(word string) error {
	if len(s.data)-s.pos < len(word) || string(s.data[s.pos:s.pos+len(word)]) != word {
		return s.fail("expected " + word)
	}
	s.pos += len(word)
	return nil
}

func (s *scanner) enter() error {
	if s.depth++; s.depth > MaxDepth {
		return s.fail("nested deeper than " + strconv.Itoa(MaxDepth) + " levels")
	}
	s.pos++
	s.space()
	return nil
}

func (s *scanner) array() error {
	if err := s.enter(); err != nil {
		return err
	}
	if s.peek() == ']' {
		s.pos++
		s.depth--
		return nil
	}
	for {
		if err := s.value(); err != nil {
			return err
		}
		s.space()
		switch s.peek() {
		case ',':
			s.pos++
			s.space()
		case ']':
			s.pos++
			s.depth--
			return nil
		default:
			return s.fail("expected , or ]")
		}
	}
}

// object reads an object and hands each member to field, when that is not nil.
func (s *scanner) object(field func(name string, value []byte) error) error {
	if err := s.enter(); err != nil {
		return err
	}
	if s.peek() == '}' {
		s.pos++
		s.depth--
		return nil
	}
	var seen names
	for {
		name, value, err := s.member(&seen)
		if err != nil {
			return err
		}
		if field != nil {
			if err := field(name, value); err != nil {
				return err
			}
		}
		s.space()
		switch s.peek() {
		case ',':
			s.pos++
			s.space()
		case '}':
			s.pos++
			s.depth--
			return nil
		default:
			return s.fail("expected , or }")
		}
	}
}

func (s *scanner) member(seen *names) (name string, value []byte, err error) {
	if s.peek() != '"' {
		return "", nil, s.fail("expected a member name")
	}
	at := s.pos
	raw, err := s.str()
	if err != nil {
		return "", nil, err
	}
	name = unquote(raw)
	if !seen.add(name) {
		return "", nil, &SyntaxError{at, "member " + strconv.Quote(name) + " appears twice"}
	}
	s.space()
	if s.peek() != ':' {
		return "", nil, s.fail("expected :")
	}
	s.pos++
	s.space()
	start := s.pos
	if err := s.value(); err != nil {
		return "", nil, err
	}
	return name, s.data[start:s.pos], nil
}

// names is a set that stays a short list for the usual small object.
type names struct {
	few  []string
	many map[string]struct{}
}

const fewNames = 24

func (n *names) add(name string) bool {
	if n.many != nil {
		before := len(n.many)
		n.many[name] = struct{}{}
		return len(n.many) > before
	}
	for _, s := range n.few {
		if s == name {
			return false
		}
	}
	n.few = append(n.few, name)
	if len(n.few) > fewNames {
		n.many = make(map[string]struct{}, 4*fewNames)
		for _, s := range n.few {
			n.many[s] = struct{}{}
		}
	}
	return true
}

// str reads a string and returns what is between its quotes, escapes unresolved.
func (s *scanner) str() ([]byte, error) {
	s.pos++
	start := s.pos
	for s.pos < len(s.data) {
		switch c := s.data[s.pos]; {
		case c == '"':
			raw := s.data[start:s.pos]
			s.pos++
			return raw, nil
		case c == '\\':
			if err := s.escape(); err != nil {
				return nil, err
			}
		case c < ' ':
			return nil, s.fail("control character in a string")
		case c < utf8.RuneSelf:
			s.pos++
		default:
			r, n := utf8.DecodeRune(s.data[s.pos:])
			if r == utf8.RuneError && n == 1 {
				return nil, s.fail("invalid UTF-8")
			}
			s.pos += n
		}
	}
	return nil, s.fail("string without end")
}

func (s *scanner) escape() error {
	if s.pos+1 >= len(s.data) {
		return s.fail("string without end")
	}
	switch s.data[s.pos+1] {
	case '"', '\\', '/', 'b', 'f', 'n', 'r', 't':
		s.pos += 2
		return nil
	case 'u':
	default:
		return s.fail("unknown escape")
	}
	r, ok := hex4(s.data[s.pos:])
	if !ok {
		return s.fail(`\u needs four hex digits`)
	}
	if !utf16.IsSurrogate(r) {
		s.pos += 6
		return nil
	}
	low, ok := hex4(s.data[s.pos+6:])
	if !ok || utf16.DecodeRune(r, low) == utf8.RuneError {
		return s.fail("lone surrogate")
	}
	s.pos += 12
	return nil
}

// hex4 reads \uXXXX from the start of b.
func hex4(b []byte) (rune, bool) {
	if len(b) < 6 || b[0] != '\\' || b[1] != 'u' {
		return 0, false
	}
	var r rune
	for _, c := range b[2:6] {
		switch {
		case '0' <= c && c <= '9':
			c -= '0'
		case 'a' <= c && c <= 'f':
			c -= 'a' - 10
		case 'A' <= c && c <= 'F':
			c -= 'A' - 10
		default:
			return 0, false
		}
		r = r<<4 | rune(c)
	}
	return r, true
}

func (s *scanner) digits() int {
	start := s.pos
	for s.pos < len(s.data) && '0' <= s.data[s.pos] && s.data[s.pos] <= '9' {
		s.pos++
	}
	return s.pos - start
}

func (s *scanner) number() error {
	start := s.pos
	if s.peek() == '-' {
		s.pos++
	}
	first := s.peek()
	switch n := s.digits(); {
	case n == 0:
		return s.fail("expected a digit")
	case n > 1 && first == '0':
		return s.fail("number with a leading zero")
	}
	if s.peek() == '.' {
		s.pos++
		if s.digits() == 0 {
			return s.fail("expected a digit")
		}
	}
	exponent := false
	if c := s.peek(); c == 'e' || c == 'E' {
		exponent = true
		s.pos++
		if c := s.peek(); c == '+' || c == '-' {
			s.pos++
		}
		if s.digits() == 0 {
			return s.fail("expected a digit")
		}
	}
	// Short texts without an exponent cannot leave the range of float64.
	if !exponent && s.pos-start < 300 {
		return nil
	}
	f, err := strconv.ParseFloat(string(s.data[start:s.pos]), 64)
	if err != nil || math.IsInf(f, 0) {
		return &SyntaxError{start, "number out of range"}
	}
	return nil
}

// unquote resolves the escapes of a string that the scanner accepted.
func unquote(raw []byte) string {
	plain := bytes.IndexByte(raw, '\\')
	if plain < 0 {
		return string(raw)
	}
	out := make([]byte, 0, len(raw))
	for plain >= 0 {
		out, raw = resolve(append(out, raw[:plain]...), raw[plain:])
		plain = bytes.IndexByte(raw, '\\')
	}
	return string(append(out, raw...))
}

// resolve appends what the escape at the start of raw stands for.
func resolve(out, raw []byte) (grown, rest []byte) {
	switch c := raw[1]; c {
	case 'b':
		return append(out, '\b'), raw[2:]
	case 'f':
		return append(out, '\f'), raw[2:]
	case 'n':
		return append(out, '\n'), raw[2:]
	case 'r':
		return append(out, '\r'), raw[2:]
	case 't':
		return append(out, '\t'), raw[2:]
	case 'u':
		r, _ := hex4(raw)
		if utf16.IsSurrogate(r) {
			low, _ := hex4(raw[6:])
			return utf8.AppendRune(out, utf16.DecodeRune(r, low)), raw[12:]
		}
		return utf8.AppendRune(out, r), raw[6:]
	default:
		return append(out, c), raw[2:]
	}
}

package config

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
	"unicode/utf8"
)

// maxLiteralDepth bounds the nesting of lists in a value.
const maxLiteralDepth = 16

// parseLiteral reads a Python literal, of which JSON is nearly a part: lists and tuples give []any, dictionaries with
// string keys map[string]any, further strings, numbers (int64, float64), True, False and None.
func parseLiteral(s string) (any, error) {
	p := literalParser{rest: s}
	v, err := p.value(0)
	if err != nil {
		return nil, err
	}
	if p.blanks(); p.rest != "" {
		return nil, fmt.Errorf("%q follows the list", abbreviate(p.rest))
	}
	return v, nil
}

type literalParser struct{ rest string }

func (p *literalParser) blanks() { p.rest = strings.TrimLeft(p.rest, " \t\r\n\f") }

// next takes c when it comes next.
func (p *literalParser) next(c byte) bool {
	if p.blanks(); p.rest != "" && p.rest[0] == c {
		p.rest = p.rest[1:]
		return true
	}
	return false
}

func (p *literalParser) value(depth int) (any, error) {
	if depth > maxLiteralDepth {
		return nil, fmt.Errorf("lists are nested more than %d deep", maxLiteralDepth)
	}
	switch {
	case p.next('['):
		return p.items(depth, ']')
	case p.next('('):
		return p.items(depth, ')')
	case p.next('{'):
		return p.pairs(depth)
	case p.rest != "" && (p.rest[0] == '\'' || p.rest[0] == '"'):
		return p.quoted()
	}
	return p.word()
}

func (p *literalParser) items(depth int, end byte) (any, error) {
	items := []any{}
	for !p.next(end) {
		v, err := p.value(depth + 1)
		if err != nil {
			return nil, err
		}
		items = append(items, v)
		if !p.next(',') {
			if p.next(end) {
				break
			}
			return nil, fmt.Errorf("a comma or %c is missing before %q", end, abbreviate(p.rest))
		}
	}
	return items, nil
}

func (p *literalParser) pairs(depth int) (any, error) {
	pairs := map[string]any{}
	for !p.next('}') {
		k, err := p.value(depth + 1)
		if err != nil {
			return nil, err
		}
		key, ok := k.(string)
		if !ok {
			return nil, fmt.Errorf("%v cannot be a key", k)
		}
		if !p.next(':') {
			return nil, fmt.Errorf("a colon is missing after %q", abbreviate(key))
		}
		if _, dup := pairs[key]; dup {
			return nil, fmt.Errorf("%q stands twice", abbreviate(key))
		}
		if pairs[key], err = p.value(depth + 1); err != nil {
			return nil, err
		}
		if !p.next(',') {
			if p.next('}') {
				break
			}
			return nil, fmt.Errorf("a comma or } is missing before %q", abbreviate(p.rest))
		}
	}
	return pairs, nil
}

func (p *literalParser) word() (any, error) {
	end := strings.IndexAny(p.rest, " \t\r\n\f,:[](){}'\"")
	if end < 0 {
		end = len(p.rest)
	}
	word := p.rest[:end]
	p.rest = p.rest[end:]
	switch word {
	case "":
		return nil, errors.New("a value is missing")
	case "True", "true":
		return true, nil
	case "False", "false":
		return false, nil
	case "None", "null":
		return nil, nil
	}
	if n, err := strconv.ParseInt(word, 10, 64); err == nil {
		return n, nil
	}
	if f, err := strconv.ParseFloat(word, 64); err == nil {
		return f, nil
	}
	return nil, fmt.Errorf("%q is neither a number nor between quotes", abbreviate(word))
}

// quoted reads a string with the escapes of Python. As there, a backslash before any other character stays.
func (p *literalParser) quoted() (any, error) {
	mark := p.rest[0]
	s := p.rest[1:]
	var b strings.Builder
	for {
		i := strings.IndexAny(s, `\`+string(mark)+"\n")
		if i < 0 || s[i] == '\n' {
			return nil, fmt.Errorf("%q is not closed", abbreviate(p.rest))
		}
		b.WriteString(s[:i])
		if s[i] == mark {
			p.rest = s[i+1:]
			return b.String(), nil
		}
		s = s[i:]
		if len(s) > 1 && s[1] == '\n' { // an escaped line break is none
			s = s[2:]
			continue
		}
		if len(s) > 1 && (s[1] == '\'' || s[1] == '"') {
			b.WriteByte(s[1])
			s = s[2:]
			continue
		}
		r, multibyte, tail, err := strconv.UnquoteChar(s, mark)
		if err != nil || tail == s {
			b.WriteByte('\\')
			s = s[1:]
			continue
		}
		if r < utf8.RuneSelf || !multibyte {
			r = rune(byte(r))
		}
		b.WriteRune(r)
		s = tail
	}
}

// bareBrackets reports whether s is a list of words without quotes, such as [agent, webhook], or with some between
// quotes where that is allowed.
func bareBrackets(s string, quotes bool) bool {
	forbidden := "[](){}"
	if !quotes {
		forbidden += `'":`
	}
	return len(s) >= 2 && s[0] == '[' && s[len(s)-1] == ']' && !strings.ContainsAny(s[1:len(s)-1], forbidden)
}

// splitWords splits at commas and line breaks, and at spaces when asked to. Quotes keep a word together and are no part of it.
func splitWords(s string, spaces bool) []string {
	var words []string
	var b strings.Builder
	var mark rune
	flush := func() {
		if w := strings.TrimSpace(b.String()); w != "" {
			words = append(words, w)
		}
		b.Reset()
	}
	for _, r := range s {
		switch {
		case mark != 0 && r == mark:
			mark = 0
		case mark != 0:
			b.WriteRune(r)
		case r == '\'' || r == '"':
			mark = r
		case r == ',' || r == '\n' || (spaces && (r == ' ' || r == '\t')):
			flush()
		default:
			b.WriteRune(r)
		}
	}
	flush()
	return words
}

// abbreviate keeps messages short.
func abbreviate(s string) string {
	const max = 40
	if len(s) <= max {
		return s
	}
	return strings.ToValidUTF8(s[:max], "") + "…"
}

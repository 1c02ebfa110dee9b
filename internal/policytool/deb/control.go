package deb

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"strings"
)

// stanza is a paragraph of a control file, deb822(5): its fields by their names in lower case. A field of several lines
// has them separated by newlines, without the space that continues it.
type stanza map[string]string

// stanzas reads control files paragraph by paragraph.
type stanzas struct {
	lines *bufio.Scanner
	keep  map[string]bool // names of the fields that are wanted
	max   int             // bytes of what is kept of a paragraph
	line  int
}

const maxLine = 1 << 20

func newStanzas(r io.Reader, max int, fields ...string) *stanzas {
	s := &stanzas{lines: bufio.NewScanner(r), keep: map[string]bool{}, max: max}
	s.lines.Buffer(make([]byte, 0, 64<<10), maxLine)
	for _, f := range fields {
		s.keep[f] = true
	}
	return s
}

// next returns the next paragraph that has any field; io.EOF after the last.
func (s *stanzas) next() (stanza, error) {
	p, begun, kept := stanza{}, false, 0
	var field string // that a continuing line belongs to
	for s.lines.Scan() {
		s.line++
		line := bytes.TrimRight(s.lines.Bytes(), " \t\r")
		switch {
		case len(line) == 0:
			if begun {
				return p, nil
			}
			continue
		case line[0] == '#':
			continue
		case line[0] == ' ' || line[0] == '\t':
			if !begun {
				return nil, s.errorf("it continues a field, and there is none")
			}
			if s.keep[field] {
				kept += len(line)
				p[field] += "\n" + string(line[1:])
			}
		default:
			name, value, ok := bytes.Cut(line, []byte(":"))
			if !ok || len(name) == 0 {
				return nil, s.errorf("%.80q is no field", line)
			}
			begun = true
			field = strings.ToLower(string(name))
			if !s.keep[field] {
				continue
			}
			if _, twice := p[field]; twice {
				return nil, s.errorf("the field %.80s stands twice", name)
			}
			kept += len(value)
			p[field] = string(bytes.TrimLeft(value, " \t"))
		}
		if kept > s.max {
			return nil, s.errorf("the paragraph is larger than %d bytes: refused", s.max)
		}
	}
	if err := s.lines.Err(); errors.Is(err, bufio.ErrTooLong) {
		s.line++
		return nil, s.errorf("it is longer than %d bytes: refused", maxLine)
	} else if err != nil {
		return nil, err
	}
	if !begun {
		return nil, io.EOF
	}
	return p, nil
}

func (s *stanzas) errorf(format string, args ...any) error {
	return fmt.Errorf("line %d: "+format, append([]any{s.line}, args...)...)
}

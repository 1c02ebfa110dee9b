package api

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
)

// errNoMember says that an object does not have the member that was looked for.
var errNoMember = errors.New("no such member")

// findMember returns the text of a member of a JSON object, of at most max bytes. What stands before it is read, not
// kept, and not checked beyond what it takes to find its end; what stands after it is not read.
func findMember(in *bufio.Reader, name string, max int) ([]byte, error) {
	s := skimmer{in: in}
	if err := s.expect('{'); err != nil {
		return nil, err
	}
	for {
		c, err := s.next()
		if err != nil {
			return nil, err
		}
		if c == ',' {
			continue
		}
		if c != '"' {
			return nil, errNoMember
		}
		var key, value bounded
		key.max, value.max = 2*len(name), max
		if err := s.text(&key); err != nil {
			return nil, err
		}
		if err := s.expect(':'); err != nil {
			return nil, err
		}
		found := key.String() == name && !key.over
		if !found {
			value.max = 0
		}
		if err := s.value(&value); err != nil {
			return nil, err
		}
		switch {
		case found && value.over:
			return nil, fmt.Errorf("member %s has more than %d bytes", name, max)
		case found:
			return value.Bytes(), nil
		}
	}
}

// bounded keeps the first max bytes.
type bounded struct {
	bytes.Buffer
	max  int
	over bool // there were more
}

func (b *bounded) add(c byte) {
	if b.Len() < b.max {
		b.WriteByte(c)
	} else {
		b.over = true
	}
}

// skimmer walks over JSON without building anything.
type skimmer struct{ in *bufio.Reader }

// next is the next byte that is no blank.
func (s skimmer) next() (byte, error) {
	for {
		c, err := s.in.ReadByte()
		if err != nil || c != ' ' && c != '\n' && c != '\r' && c != '\t' {
			return c, ended(err)
		}
	}
}

func ended(err error) error {
	if errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}

func (s skimmer) expect(want byte) error {
	c, err := s.next()
	if err == nil && c != want {
		err = fmt.Errorf("%q where %q should be", c, want)
	}
	return err
}

// text reads the rest of a string, without its closing quote.
func (s skimmer) text(keep *bounded) error {
	for escaped := false; ; {
		c, err := s.in.ReadByte()
		if err != nil {
			return ended(err)
		}
		if c == '"' && !escaped {
			return nil
		}
		escaped = c == '\\' && !escaped
		keep.add(c)
	}
}

// value reads a value of any kind.
func (s skimmer) value(keep *bounded) error {
	c, err := s.next()
	for depth := 0; err == nil; c, err = s.in.ReadByte() {
		switch c {
		case '"':
			keep.add(c)
			if err := s.text(keep); err != nil {
				return err
			}
		case '{', '[':
			depth++
		case '}', ']':
			depth--
		case ',':
			if depth == 0 {
				return s.in.UnreadByte()
			}
		}
		if depth < 0 {
			return s.in.UnreadByte()
		}
		keep.add(c)
		if depth == 0 && (c == '"' || c == '}' || c == ']') {
			return nil
		}
	}
	return ended(err)
}

package agent

import (
	"io"
	"unicode/utf8"
)

// jsonText writes bytes as the inside of a JSON string, so that a log of any size can be part of a response that is
// never built in memory. Bytes that are not UTF-8 become U+FFFD, one each, as encoding/json has it. The destination
// is expected to buffer.
type jsonText struct {
	w    io.Writer
	tail []byte // the start of a rune whose rest is still to come; under utf8.UTFMax bytes
}

const hexDigits = "0123456789abcdef"

// Write escapes p. A rune may be split over two calls.
func (t *jsonText) Write(p []byte) (int, error) {
	written := len(p)
	if len(t.tail) > 0 {
		p = append(t.tail, p...)
		t.tail = nil
	}
	for len(p) > 0 {
		run := plainPrefix(p)
		if run > 0 {
			if _, err := t.w.Write(p[:run]); err != nil {
				return 0, err
			}
			p = p[run:]
			continue
		}
		if !utf8.FullRune(p) {
			t.tail = append(t.tail, p...)
			return written, nil
		}
		size, err := t.escape(p)
		if err != nil {
			return 0, err
		}
		p = p[size:]
	}
	return written, nil
}

// Close writes what is left of an unfinished rune. It does not close the destination.
func (t *jsonText) Close() error {
	for range t.tail {
		if _, err := io.WriteString(t.w, `\ufffd`); err != nil {
			return err
		}
	}
	t.tail = nil
	return nil
}

// plainPrefix is how many bytes of p stand for themselves in a JSON string.
func plainPrefix(p []byte) int {
	i := 0
	for i < len(p) {
		c := p[i]
		if c < utf8.RuneSelf {
			if c < 0x20 || c == '"' || c == '\\' {
				break
			}
			i++
			continue
		}
		r, size := utf8.DecodeRune(p[i:])
		if r == utf8.RuneError && size <= 1 {
			break
		}
		i += size
	}
	return i
}

// escape writes the first byte of p, which does not stand for itself.
func (t *jsonText) escape(p []byte) (size int, err error) {
	switch c := p[0]; {
	case c == '\n':
		_, err = io.WriteString(t.w, `\n`)
	case c == '"' || c == '\\':
		_, err = t.w.Write([]byte{'\\', c})
	case c < 0x20:
		_, err = t.w.Write([]byte{'\\', 'u', '0', '0', hexDigits[c>>4], hexDigits[c&15]})
	default:
		_, err = io.WriteString(t.w, `\ufffd`)
	}
	return 1, err
}

package deb

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
)

// arReader reads the members of an ar archive one after the other, in the common format of deb(5).
type arReader struct {
	r       io.Reader
	member  io.LimitedReader // of the current member
	padding int64
}

const (
	arMagic  = "!<arch>\n"
	arHeader = 60
)

func newArReader(r io.Reader) (*arReader, error) {
	magic := make([]byte, len(arMagic))
	if _, err := io.ReadFull(r, magic); err != nil || string(magic) != arMagic {
		return nil, errors.Join(errors.New("it is no Debian package: it does not begin as an ar archive"), notEOF(err))
	}
	return &arReader{r: r}, nil
}

// next moves to the next member, whose content is then in a.member; io.EOF after the last.
func (a *arReader) next() (name string, err error) {
	if n, err := io.CopyN(io.Discard, a.r, a.member.N+a.padding); err != nil {
		if n == a.member.N && err == io.EOF { // the last padding may be missing
			return "", io.EOF
		}
		return "", fmt.Errorf("ar archive: %w", unexpected(err))
	}
	header := make([]byte, arHeader)
	if _, err := io.ReadFull(a.r, header); err != nil {
		if err == io.EOF {
			return "", io.EOF
		}
		return "", fmt.Errorf("ar archive: header of a member: %w", unexpected(err))
	}
	name, size, err := parseArHeader(header)
	if err != nil {
		return "", err
	}
	a.member = io.LimitedReader{R: a.r, N: size}
	a.padding = size & 1
	return name, nil
}

// parseArHeader reads name (16 bytes), time (12), owner (6), group (6), mode (8), size (10) and end mark (2).
func parseArHeader(header []byte) (name string, size int64, err error) {
	if !bytes.HasSuffix(header, []byte("`\n")) {
		return "", 0, errors.New("ar archive: a member's header lacks its end mark")
	}
	name = strings.TrimSuffix(strings.TrimRight(string(header[:16]), " "), "/")
	digits := strings.TrimRight(string(header[48:58]), " ")
	n, err := strconv.ParseUint(digits, 10, 63)
	if err != nil {
		return "", 0, fmt.Errorf("ar archive: member %q has size %q", name, digits)
	}
	return name, int64(n), nil
}

func unexpected(err error) error {
	if err == io.EOF {
		return io.ErrUnexpectedEOF
	}
	return err
}

func notEOF(err error) error {
	if err == io.EOF || err == io.ErrUnexpectedEOF {
		return nil
	}
	return err
}

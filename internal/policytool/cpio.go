package policytool

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"path"
	"strconv"
)

// The newc format of cpio archives, as the kernel reads it (Documentation/driver-api/early-userspace/buffer-format.rst):
// a header of 110 characters, the name with a NUL, and the content, each padded to a multiple of 4 bytes.
const (
	cpioMagic    = "070701"
	cpioMagicCRC = "070702"
	cpioHeader   = 110
	cpioTrailer  = "TRAILER!!!"
	maxCPIOName  = 4096
	maxCPIOLinks = 1 << 20
)

// cpioEntry is a regular file of an archive. An inode with several names has its content at the last of them.
type cpioEntry struct {
	names   []string
	content io.Reader // valid until the next entry
}

// cpioReader reads one archive.
type cpioReader struct {
	in      *bufio.Reader
	read    int64 // bytes since the archive began
	content io.LimitedReader
	padding int64
	links   map[string][]string // names by inode, still without content
	waiting int                 // names in links
}

func newCPIO(in *bufio.Reader) *cpioReader {
	return &cpioReader{in: in, links: map[string][]string{}}
}

// isCPIO reports whether an archive begins here.
func isCPIO(in *bufio.Reader) bool {
	magic, _ := in.Peek(len(cpioMagic))
	return string(magic) == cpioMagic || string(magic) == cpioMagicCRC
}

var errCPIO = errors.New("damaged cpio archive")

// next returns the next regular file that has content or needs none; io.EOF after the trailer.
func (c *cpioReader) next() (*cpioEntry, error) {
	for {
		if c.links == nil {
			return nil, io.EOF
		}
		if err := c.skip(c.content.N + c.padding); err != nil {
			return nil, err
		}
		h, err := c.header()
		if err != nil {
			return nil, err
		}
		if h.name == cpioTrailer {
			return c.rest()
		}
		if h.mode&0o170000 != 0o100000 {
			continue
		}
		names := []string{path.Clean("/" + h.name)}
		if h.links > 1 {
			if names, err = c.linked(h, names[0]); err != nil {
				return nil, err
			}
		}
		if len(names) > 0 {
			return &cpioEntry{names, &c.content}, nil
		}
	}
}

// rest returns, at the trailer, the names whose content never came: they are empty. Then there is nothing more.
func (c *cpioReader) rest() (*cpioEntry, error) {
	var names []string
	for _, waiting := range c.links {
		names = append(names, waiting...)
	}
	if len(names) == 0 {
		return nil, io.EOF
	}
	c.links = nil
	return &cpioEntry{names, &io.LimitedReader{}}, nil
}

// linked returns all names of an inode when its content is here, and none before. That of an empty file never comes: its
// last name is told by the number of links.
func (c *cpioReader) linked(h cpioHead, name string) ([]string, error) {
	names := append(c.links[h.inode], name)
	if h.size == 0 && len(names) < int(h.links) {
		if c.waiting++; c.waiting > maxCPIOLinks {
			return nil, fmt.Errorf("%w: more than %d hard links", errCPIO, maxCPIOLinks)
		}
		c.links[h.inode] = names
		return nil, nil
	}
	c.waiting -= len(names) - 1
	delete(c.links, h.inode)
	return names, nil
}

// cpioHead is what is needed of a header.
type cpioHead struct {
	inode string // with the device
	mode  uint32
	links uint32
	size  uint32
	name  string
}

func (c *cpioReader) header() (h cpioHead, err error) {
	at := c.read
	raw := make([]byte, cpioHeader)
	if err := c.full(raw); err != nil {
		return h, err
	}
	if magic := string(raw[:6]); magic != cpioMagic && magic != cpioMagicCRC {
		return h, fmt.Errorf("%w: byte %d of it: no header", errCPIO, at)
	}
	var nameSize uint32
	for _, f := range []struct {
		index int
		into  *uint32
	}{{1, &h.mode}, {4, &h.links}, {6, &h.size}, {11, &nameSize}} {
		digits := string(raw[6+8*f.index:][:8])
		v, err := strconv.ParseUint(digits, 16, 32)
		if err != nil {
			return h, fmt.Errorf("%w: byte %d of it: %q is no number", errCPIO, at, digits)
		}
		*f.into = uint32(v)
	}
	h.inode = string(raw[6:14]) + string(raw[6+8*7:][:16])
	if nameSize == 0 || nameSize > maxCPIOName {
		return h, fmt.Errorf("%w: byte %d of it: a name of %d bytes", errCPIO, at, nameSize)
	}
	name := make([]byte, nameSize)
	if err := c.full(name); err != nil {
		return h, err
	}
	h.name = string(name[:nameSize-1])
	if err := c.skip(-c.read & 3); err != nil {
		return h, err
	}
	c.content = io.LimitedReader{R: counting{c}, N: int64(h.size)}
	c.padding = -int64(h.size) & 3
	return h, nil
}

// full fills b.
func (c *cpioReader) full(b []byte) error {
	n, err := io.ReadFull(c.in, b)
	c.read += int64(n)
	return cut(err)
}

func (c *cpioReader) skip(n int64) error {
	skipped, err := io.CopyN(io.Discard, c.in, n)
	c.read += skipped
	c.content.N, c.padding = 0, 0
	return cut(err)
}

// cut tells the end of the input within an archive from the end of an archive.
func cut(err error) error {
	if err == io.EOF || err == io.ErrUnexpectedEOF {
		return fmt.Errorf("%w: cut short", errCPIO)
	}
	return err
}

// counting reads the content of an entry, and finds it cut short where the input ends before it.
type counting struct{ c *cpioReader }

func (r counting) Read(p []byte) (int, error) {
	n, err := r.c.in.Read(p)
	r.c.read += int64(n)
	return n, cut(err)
}

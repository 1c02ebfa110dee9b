package rpm

import (
	"bytes"
	"crypto/sha1"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
)

// Tags of the signature header and of the header, of RPM's doc/manual/tags.md.
const (
	sigSHA1   = 269
	sigSHA256 = 273

	tagOldFileNames   = 1027
	tagFileModes      = 1030
	tagFileDigests    = 1035
	tagSourcePackage  = 1106
	tagDirIndexes     = 1116
	tagBaseNames      = 1117
	tagDirNames       = 1118
	tagFileDigestAlgo = 5011
)

// Types of values, of RPM's doc/manual/format_header.md.
const (
	typeInt16       = 3
	typeInt32       = 4
	typeString      = 6
	typeStringArray = 8
)

const (
	leadSize   = 96
	introSize  = 16
	indexEntry = 16
	maxTags    = 0xffff   // RPM's own limit
	maxStore   = 64 << 20 // a package of 400,000 files has 40 MB
	maxValues  = 1 << 20  // of one tag: files of a package
)

// header is one of the two header structures of a package: an index of tags and a store that their values are in.
type header struct {
	entries map[uint32]value
	store   []byte
	raw     []byte // what digests of the header are of
}

type value struct {
	kind, offset, count uint32
}

// readPackageHeader reads a package up to its payload and returns its header. Where the signature header states digests
// of the header they must be right.
func readPackageHeader(r io.Reader) (*header, error) {
	lead := make([]byte, leadSize)
	if _, err := io.ReadFull(r, lead); err != nil {
		return nil, fmt.Errorf("lead: %w", unexpected(err))
	}
	if !bytes.HasPrefix(lead, []byte("\xed\xab\xee\xdb")) {
		return nil, errors.New("it is no RPM package: it does not begin with RPM's mark")
	}
	signature, err := readHeader(r)
	if err != nil {
		return nil, fmt.Errorf("signature header: %w", err)
	}
	if padding := -len(signature.store) & 7; padding > 0 {
		if _, err := io.CopyN(io.Discard, r, int64(padding)); err != nil {
			return nil, fmt.Errorf("signature header: %w", unexpected(err))
		}
	}
	h, err := readHeader(r)
	if err != nil {
		return nil, fmt.Errorf("header: %w", err)
	}
	if err := signature.vouchFor(h); err != nil {
		return nil, fmt.Errorf("header: %w", err)
	}
	h.raw = nil
	return h, nil
}

func readHeader(r io.Reader) (*header, error) {
	var raw bytes.Buffer
	if err := readMore(&raw, r, introSize); err != nil {
		return nil, err
	}
	intro := raw.Bytes()
	if !bytes.HasPrefix(intro, []byte("\x8e\xad\xe8\x01")) {
		return nil, errors.New("it does not begin with the mark of a header")
	}
	tags, size := binary.BigEndian.Uint32(intro[8:]), binary.BigEndian.Uint32(intro[12:])
	if tags > maxTags || size > maxStore {
		return nil, fmt.Errorf("%d tags with %d bytes of values: at most %d and %d are read", tags, size, maxTags, maxStore)
	}
	if err := readMore(&raw, r, int64(tags)*indexEntry+int64(size)); err != nil {
		return nil, err
	}
	index := raw.Bytes()[introSize:]
	h := &header{entries: make(map[uint32]value, tags), store: index[tags*indexEntry:], raw: raw.Bytes()}
	for range tags {
		tag := binary.BigEndian.Uint32(index)
		v := value{binary.BigEndian.Uint32(index[4:]), binary.BigEndian.Uint32(index[8:]), binary.BigEndian.Uint32(index[12:])}
		if v.offset > size || v.count > size { // every value of what is read here has a byte at least
			if wanted(tag) {
				return nil, fmt.Errorf("tag %d lies beyond the values", tag)
			}
		} else if _, twice := h.entries[tag]; twice && wanted(tag) {
			return nil, fmt.Errorf("tag %d stands twice", tag)
		}
		h.entries[tag] = v
		index = index[indexEntry:]
	}
	return h, nil
}

// wanted tells which tags are read, and must be in order.
func wanted(tag uint32) bool {
	switch tag {
	case sigSHA1, sigSHA256, tagOldFileNames, tagFileModes, tagFileDigests, tagSourcePackage, tagDirIndexes, tagBaseNames, tagDirNames, tagFileDigestAlgo:
		return true
	}
	return false
}

// readMore appends exactly n bytes. Memory grows with what comes, not with what was promised.
func readMore(to *bytes.Buffer, r io.Reader, n int64) error {
	if _, err := io.CopyN(to, r, n); err != nil {
		return unexpected(err)
	}
	return nil
}

// vouchFor holds that the digests that a signature header states of a header are right.
func (h *header) vouchFor(other *header) error {
	sum256, sum1 := sha256.Sum256(other.raw), sha1.Sum(other.raw)
	for _, digest := range []struct {
		tag  uint32
		name string
		sum  []byte
	}{{sigSHA256, "SHA-256", sum256[:]}, {sigSHA1, "SHA-1", sum1[:]}} {
		stated, err := h.texts(digest.tag)
		if err != nil {
			return err
		}
		if len(stated) > 0 && stated[0] != hex.EncodeToString(digest.sum) {
			return fmt.Errorf("its %s is not the one that the package states: it is damaged", digest.name)
		}
	}
	return nil
}

func (h *header) has(tag uint32) bool { _, ok := h.entries[tag]; return ok }

// texts returns the strings of a tag; none when there is no such tag.
func (h *header) texts(tag uint32) ([]string, error) {
	v, ok := h.entries[tag]
	if !ok {
		return nil, nil
	}
	count := v.count
	switch v.kind {
	case typeString:
		count = 1
	case typeStringArray:
	default:
		return nil, fmt.Errorf("tag %d has no strings", tag)
	}
	if count > maxValues {
		return nil, fmt.Errorf("tag %d has %d strings: at most %d are read", tag, count, maxValues)
	}
	list := make([]string, 0, count)
	rest := h.store[v.offset:]
	for range count {
		text, after, ok := bytes.Cut(rest, []byte{0})
		if !ok {
			return nil, fmt.Errorf("tag %d lacks the end of a string", tag)
		}
		list = append(list, string(text))
		rest = after
	}
	return list, nil
}

// numbers returns the integers of a tag, of 16 or 32 bits; none when there is no such tag.
func (h *header) numbers(tag uint32) ([]uint32, error) {
	v, ok := h.entries[tag]
	if !ok {
		return nil, nil
	}
	size := map[uint32]int{typeInt16: 2, typeInt32: 4}[v.kind]
	if size == 0 {
		return nil, fmt.Errorf("tag %d has no numbers", tag)
	}
	rest := h.store[v.offset:]
	if len(rest)/size < int(v.count) {
		return nil, fmt.Errorf("tag %d lies beyond the values", tag)
	}
	list := make([]uint32, v.count)
	for i := range list {
		if size == 2 {
			list[i] = uint32(binary.BigEndian.Uint16(rest[i*2:]))
		} else {
			list[i] = binary.BigEndian.Uint32(rest[i*4:])
		}
	}
	return list, nil
}

func unexpected(err error) error {
	if err == io.EOF {
		return io.ErrUnexpectedEOF
	}
	return err
}

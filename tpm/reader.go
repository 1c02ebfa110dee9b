package tpm

import (
	"encoding/binary"
	"fmt"
)

// reader takes a TPM structure apart, front to back. The first fault sticks and names the field it struck;
// after it every read returns zero values, so callers check once, at the end, with close.
type reader struct {
	rest []byte
	err  error
}

// take returns the next n bytes, which alias the input.
func (r *reader) take(n int, field string) []byte {
	if r.err != nil {
		return nil
	}
	if n > len(r.rest) {
		r.err = fmt.Errorf("%s is cut short: need %d bytes, have %d", field, n, len(r.rest))
		return nil
	}
	b := r.rest[:n:n]
	r.rest = r.rest[n:]
	return b
}

func (r *reader) u8(field string) uint8 {
	if b := r.take(1, field); b != nil {
		return b[0]
	}
	return 0
}

func (r *reader) u16(field string) uint16 {
	if b := r.take(2, field); b != nil {
		return binary.BigEndian.Uint16(b)
	}
	return 0
}

func (r *reader) u32(field string) uint32 {
	if b := r.take(4, field); b != nil {
		return binary.BigEndian.Uint32(b)
	}
	return 0
}

func (r *reader) u64(field string) uint64 {
	if b := r.take(8, field); b != nil {
		return binary.BigEndian.Uint64(b)
	}
	return 0
}

// sized reads a TPM2B: a 16-bit length, at most limit, and that many bytes.
func (r *reader) sized(limit int, field string) []byte {
	n := int(r.u16(field))
	if n > limit {
		r.fail("%s has %d bytes, at most %d are allowed", field, n, limit)
	}
	return r.take(n, field)
}

// fail records a fault unless there is one already.
func (r *reader) fail(format string, args ...any) {
	if r.err == nil {
		r.err = fmt.Errorf(format, args...)
	}
}

// close reports the first fault; bytes left over are one.
func (r *reader) close() error {
	if len(r.rest) != 0 {
		r.fail("%d bytes follow the structure", len(r.rest))
	}
	return r.err
}

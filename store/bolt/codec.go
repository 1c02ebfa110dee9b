package bolt

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"time"

	"keylime/internal/attest"
	"keylime/store"
)

// A record is a version byte, the CRC-32C of version and body, and the body. The version is that of the record's
// kind; bbolt has no checksums of its own, and a flipped bit must not become another key or another verdict.
const (
	recordVersion = 1
	recordHead    = 1 + 4
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

func seal(body []byte) []byte {
	record := make([]byte, recordHead, recordHead+len(body))
	record[0] = recordVersion
	record = append(record, body...)
	binary.BigEndian.PutUint32(record[1:], checksum(record))
	return record
}

func checksum(record []byte) uint32 {
	return crc32.Update(crc32.Checksum(record[:1], castagnoli), castagnoli, record[recordHead:])
}

// unseal returns the body of a record. The error wraps store.ErrDamaged.
func unseal(record []byte) ([]byte, error) {
	switch {
	case len(record) < recordHead:
		return nil, fmt.Errorf("%w (%d bytes)", store.ErrDamaged, len(record))
	case record[0] != recordVersion:
		return nil, fmt.Errorf("%w (unknown version %d)", store.ErrDamaged, record[0])
	case binary.BigEndian.Uint32(record[1:]) != checksum(record):
		return nil, fmt.Errorf("%w (checksum)", store.ErrDamaged)
	}
	return record[recordHead:], nil
}

// encodeRecord seals v as JSON. No type that is kept can fail to encode.
func encodeRecord(v any) []byte { return seal(encodeJSON(v)) }

func decodeRecord(record []byte, v any) error {
	body, err := unseal(record)
	if err != nil {
		return err
	}
	return decodeJSON(body, v)
}

func encodeJSON(v any) []byte {
	var text bytes.Buffer
	e := json.NewEncoder(&text)
	e.SetEscapeHTML(false)
	if err := e.Encode(v); err != nil {
		panic("bolt: record cannot be encoded: " + err.Error())
	}
	return bytes.TrimSuffix(text.Bytes(), []byte("\n"))
}

// decodeJSON takes no field that this release does not know: a field dropped silently could be the one that mattered.
func decodeJSON(text []byte, v any) error {
	d := json.NewDecoder(bytes.NewReader(text))
	d.DisallowUnknownFields()
	if err := d.Decode(v); err != nil {
		return fmt.Errorf("%w (%w)", store.ErrDamaged, err)
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return fmt.Errorf("%w (trailing data)", store.ErrDamaged)
	}
	return nil
}

// A round's record is the length of its JSON as a varint, the JSON, and the attestation state as package attest
// encodes it.

type roundJSON struct {
	Status store.AgentStatus
	Due    time.Time
	Rev    uint64
}

func encodeRound(r *round) []byte {
	text := encodeJSON(roundJSON{r.status, r.due, r.rev})
	body := binary.AppendUvarint(nil, uint64(len(text)))
	body = append(body, text...)
	return seal(append(body, r.state.Encode()...))
}

func decodeRound(record []byte) (*round, error) {
	body, err := unseal(record)
	if err != nil {
		return nil, err
	}
	size, n := binary.Uvarint(body)
	if n <= 0 || size > uint64(len(body)-n) {
		return nil, fmt.Errorf("%w (length)", store.ErrDamaged)
	}
	text, state := body[n:n+int(size)], body[n+int(size):]
	var j roundJSON
	if err := decodeJSON(text, &j); err != nil {
		return nil, err
	}
	r := &round{status: j.Status, due: j.Due, rev: j.Rev}
	if r.state, err = attest.DecodeState(state); err != nil {
		return nil, fmt.Errorf("%w (%w)", store.ErrDamaged, err)
	}
	return r, nil
}

// policyHead is a policy without its text.
type policyHead struct {
	Digest    string
	Generator int
	Rev       uint64
	NilText   bool   // the text is nil, not merely empty
	Keys      string `json:",omitempty"`
	// Of the text that is being replaced; "" = none.
	PreviousDigest string    `json:",omitempty"`
	Until          time.Time `json:",omitzero"`
}

// Keys sort as what they name.

func numberKey(n uint64) []byte { return binary.BigEndian.AppendUint64(nil, n) }

// timeKey sorts as time does, also before 1970.
func timeKey(t time.Time) []byte { return numberKey(uint64(t.UnixMicro()) ^ 1<<63) }

func keyTime(key []byte) time.Time { return time.UnixMicro(int64(keyNumber(key[:8]) ^ 1<<63)).UTC() }

func keyNumber(key []byte) uint64 { return binary.BigEndian.Uint64(key) }

// sizedKey makes a prefix of a name that no other name's prefix begins with. Names are shorter than 256 bytes.
func sizedKey(name string) []byte { return append([]byte{byte(len(name))}, name...) }

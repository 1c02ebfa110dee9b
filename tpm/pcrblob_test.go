package tpm_test

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"slices"
	"testing"

	"keylime/tpm"
)

// values are n different digests of a bank.
func values(bank tpm.Hash, n int) [][]byte {
	list := make([][]byte, n)
	for i := range list {
		list[i] = bytes.Repeat([]byte{byte(i + 1)}, bank.Size())
	}
	return list
}

// The documented image of PCRs 10 and 16 in the SHA-256 bank.
func TestPCRBlobLayout(t *testing.T) {
	t.Parallel()
	v := values(tpm.SHA256, 2)
	want := slices.Concat(
		[]byte{1, 0, 0, 0, 0x0B, 0, 3, 0, 4, 1, 0, 0}, make([]byte, 15*8),
		[]byte{1, 0, 0, 0, 2, 0, 0, 0},
		[]byte{32, 0}, v[0], make([]byte, 32),
		[]byte{32, 0}, v[1], make([]byte, 32),
		make([]byte, 6*66))
	got := tpm.MarshalPCRBlob(tpm.SHA256, tpm.MaskOf(10, 16), v)
	if !bytes.Equal(got, want) || len(got) != 668 {
		t.Errorf("blob of %d bytes is\n%s", len(got), hex.Dump(got))
	}
}

func TestPCRBlobRoundTrip(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		bank tpm.Hash
		mask tpm.Mask
		size int
	}{
		{tpm.SHA1, 0, 136},
		{tpm.SHA1, tpm.MaskOf(23), 668},
		{tpm.SHA256, 0xFF, 668},
		{tpm.SHA384, 0x1FF, 1200},
		{tpm.SHA512, 0xFFFF, 1200},
		{tpm.SHA256, 0xFFFFFF, 1732},
	} {
		v := values(c.bank, c.mask.Count())
		blob := tpm.MarshalPCRBlob(c.bank, c.mask, v)
		if len(blob) != c.size {
			t.Errorf("%v %v: %d bytes, want %d", c.bank, c.mask, len(blob), c.size)
		}
		bank, mask, got, err := tpm.ParseBlob(blob)
		if err != nil || bank != c.bank || mask != c.mask || !slices.EqualFunc(got, v, bytes.Equal) {
			t.Errorf("%v %v: parsed %v %v, %d values, %v", c.bank, c.mask, bank, mask, len(got), err)
		}
	}
}

// NT-23: everything that says other than one bank, one selection and exactly its digests.
func TestMalformedPCRBlobs(t *testing.T) {
	t.Parallel()
	const (
		slot1, slot2  = 4, 12
		listsAt       = 132
		firstList     = 136
		digestSize    = 66
		unusedDigest  = firstList + 4 + 3*digestSize
		behindADigest = firstList + 4 + 2 + 32
	)
	good := tpm.MarshalPCRBlob(tpm.SHA256, tpm.MaskOf(0, 10, 16), values(tpm.SHA256, 3))
	le := binary.LittleEndian
	for name, change := range map[string]func([]byte) []byte{
		"nothing":            func([]byte) []byte { return nil },
		"no selection":       func(b []byte) []byte { le.PutUint32(b, 0); return b },
		"two selections":     func(b []byte) []byte { le.PutUint32(b, 2); return b },
		"2^32-1 selections":  func(b []byte) []byte { le.PutUint32(b, 0xFFFFFFFF); return b },
		"duplicate bank":     func(b []byte) []byte { copy(b[slot2:], b[slot1:slot1+8]); return b },
		"counted duplicate":  func(b []byte) []byte { le.PutUint32(b, 2); copy(b[slot2:], b[slot1:slot1+8]); return b },
		"unknown bank first": func(b []byte) []byte { copy(b[slot2:], b[slot1:slot1+8]); le.PutUint16(b[slot1:], 0x12); return b },
		"big-endian bank":    func(b []byte) []byte { b[slot1], b[slot1+1] = 0, 0x0B; return b },
		"sizeofSelect 0":     func(b []byte) []byte { b[slot1+2] = 0; return b },
		"sizeofSelect 2":     func(b []byte) []byte { b[slot1+2] = 2; return b },
		"sizeofSelect 4":     func(b []byte) []byte { b[slot1+2] = 4; return b },
		"PCR 24":             func(b []byte) []byte { b[slot1+6] = 1; return b },
		"padding":            func(b []byte) []byte { b[slot1+7] = 1; return b },
		"one PCR more":       func(b []byte) []byte { b[slot1+3] |= 2; return b },
		"one PCR less":       func(b []byte) []byte { b[slot1+3] = 0; return b },
		"no list":            func(b []byte) []byte { le.PutUint32(b[listsAt:], 0); return b[:firstList] },
		"two lists":          func(b []byte) []byte { le.PutUint32(b[listsAt:], 2); return append(b, b[firstList:]...) },
		"2^32-1 lists":       func(b []byte) []byte { le.PutUint32(b[listsAt:], 0xFFFFFFFF); return b },
		"two digests":        func(b []byte) []byte { le.PutUint32(b[firstList:], 2); return b },
		"four digests":       func(b []byte) []byte { le.PutUint32(b[firstList:], 4); return b },
		"nine digests":       func(b []byte) []byte { le.PutUint32(b[firstList:], 9); return b },
		"digest of 0":        func(b []byte) []byte { le.PutUint16(b[firstList+4:], 0); return b },
		"digest of 31":       func(b []byte) []byte { le.PutUint16(b[firstList+4:], 31); return b },
		"digest of 64":       func(b []byte) []byte { le.PutUint16(b[firstList+4:], 64); return b },
		"digest of 65535":    func(b []byte) []byte { le.PutUint16(b[firstList+4:], 65535); return b },
		"digest to skip":     func(b []byte) []byte { le.PutUint16(b[unusedDigest:], 32); return b },
		"behind a digest":    func(b []byte) []byte { b[behindADigest] = 1; return b },
		"trailing byte":      func(b []byte) []byte { return append(b, 0) },
		"last byte short":    func(b []byte) []byte { return b[:len(b)-1] },
		"header alone":       func(b []byte) []byte { return b[:firstList] },
	} {
		if _, _, _, err := tpm.ParseBlob(change(bytes.Clone(good))); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
	if _, _, _, err := tpm.ParseBlob(good); err != nil {
		t.Errorf("unchanged: %v", err)
	}
}

// PCR 16 after one extension, for a key text whose digest was computed elsewhere.
func TestDataPCR(t *testing.T) {
	t.Parallel()
	const key = "-----BEGIN PUBLIC KEY-----\nX\n-----END PUBLIC KEY-----\n"
	const want = "3fabc7e7b8524d09d0894332af963908ff1963a4a848bf90dc24be93c57f0f04"
	if got := hex.EncodeToString(tpm.DataPCR(tpm.SHA256, key)); got != want {
		t.Errorf("PCR 16 is %s, want %s", got, want)
	}
}

package tpm

import (
	"encoding/binary"
	"fmt"
)

// The PCR blob is what tpm2-tools write beside a quote: a memory image, little-endian, of a
// TPML_PCR_SELECTION and of the TPML_DIGESTs that TPM2_PCR_Read returned.
//
//	u32 count of selections, always 1
//	16 slots { u16 hash, u8 sizeofSelect, 4 bytes bitmap, 1 byte padding }
//	u32 count of digest lists
//	per list: u32 count (1 to 8), 8 slots { u16 size, 64 bytes value }
const (
	blobSlots      = 16
	blobSlotSize   = 8
	blobListsAt    = 4 + blobSlots*blobSlotSize
	blobHeader     = blobListsAt + 4
	blobPerList    = 8
	blobDigestSize = 2 + maxDigest
	blobListSize   = 4 + blobPerList*blobDigestSize
)

// pcrBlob is a parsed PCR blob: values holds one bank's digests back to back, ascending by PCR.
type pcrBlob struct {
	bank   Hash
	mask   Mask
	values []byte
}

// parsePCRBlob accepts the one form that MarshalPCRBlob writes: the first slot only, no digest missing or too
// many, all that is unused zero. Any blob it accepts is byte for byte MarshalPCRBlob of the result.
func parsePCRBlob(b []byte) (pcrBlob, error) {
	p, err := readPCRBlob(b)
	if err != nil {
		return pcrBlob{}, fmt.Errorf("parse PCR blob: %w", err)
	}
	return p, nil
}

func readPCRBlob(b []byte) (pcrBlob, error) {
	if len(b) < blobHeader {
		return pcrBlob{}, fmt.Errorf("%d bytes are too few", len(b))
	}
	if n := binary.LittleEndian.Uint32(b); n != 1 {
		return pcrBlob{}, fmt.Errorf("%d PCR selections, want exactly one", n)
	}
	slot := b[4 : 4+blobSlotSize]
	p := pcrBlob{bank: Hash(binary.LittleEndian.Uint16(slot))}
	if !p.bank.Valid() {
		return pcrBlob{}, fmt.Errorf("bank: %w %v", ErrUnknownHash, p.bank)
	}
	if slot[2] != selectBytes {
		return pcrBlob{}, fmt.Errorf("sizeofSelect %d, want %d", slot[2], selectBytes)
	}
	p.mask = Mask(slot[3]) | Mask(slot[4])<<8 | Mask(slot[5])<<16
	if !zero(slot[6:]) || !zero(b[4+blobSlotSize:blobListsAt]) {
		return pcrBlob{}, fmt.Errorf("unused selection bytes are not zero")
	}
	count := p.mask.Count()
	lists := (count + blobPerList - 1) / blobPerList
	if n := binary.LittleEndian.Uint32(b[blobListsAt:]); int64(n) != int64(lists) {
		return pcrBlob{}, fmt.Errorf("%d digest lists, want %d for %d PCRs", n, lists, count)
	}
	if len(b) != blobHeader+lists*blobListSize {
		return pcrBlob{}, fmt.Errorf("%d bytes, want %d for %d PCRs", len(b), blobHeader+lists*blobListSize, count)
	}
	p.values = make([]byte, 0, count*p.bank.Size())
	for list := b[blobHeader:]; len(list) > 0; list = list[blobListSize:] {
		n := min(count, blobPerList)
		if err := p.readList(list[:blobListSize], n); err != nil {
			return pcrBlob{}, err
		}
		count -= n
	}
	return p, nil
}

// readList appends the n digests of one list.
func (p *pcrBlob) readList(list []byte, n int) error {
	if got := binary.LittleEndian.Uint32(list); int64(got) != int64(n) {
		return fmt.Errorf("digest list of %d, want %d", got, n)
	}
	size := p.bank.Size()
	for i := range n {
		slot := list[4+i*blobDigestSize:][:blobDigestSize]
		if got := int(binary.LittleEndian.Uint16(slot)); got != size {
			return fmt.Errorf("digest of %d bytes, want %d for %v", got, size, p.bank)
		}
		p.values = append(p.values, slot[2:2+size]...)
		if !zero(slot[2+size:]) {
			return fmt.Errorf("bytes after a digest are not zero")
		}
	}
	if !zero(list[4+n*blobDigestSize:]) {
		return fmt.Errorf("unused digest slots are not zero")
	}
	return nil
}

// MarshalPCRBlob writes the PCR blob of one bank. There must be one value of the bank's size for each PCR of
// mask, ascending.
func MarshalPCRBlob(bank Hash, mask Mask, values [][]byte) []byte {
	lists := (len(values) + blobPerList - 1) / blobPerList
	b := make([]byte, blobHeader+lists*blobListSize)
	binary.LittleEndian.PutUint32(b, 1)
	binary.LittleEndian.PutUint16(b[4:], uint16(bank))
	b[6], b[7], b[8], b[9] = selectBytes, byte(mask), byte(mask>>8), byte(mask>>16)
	binary.LittleEndian.PutUint32(b[blobListsAt:], uint32(lists))
	for i, v := range values {
		list := b[blobHeader+i/blobPerList*blobListSize:]
		binary.LittleEndian.PutUint32(list, uint32(i%blobPerList+1))
		slot := list[4+i%blobPerList*blobDigestSize:]
		binary.LittleEndian.PutUint16(slot, uint16(len(v)))
		copy(slot[2:blobDigestSize], v)
	}
	return b
}

func zero(b []byte) bool {
	for _, c := range b {
		if c != 0 {
			return false
		}
	}
	return true
}

package fleet

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"slices"
	"unicode/utf16"

	"keylime/internal/uefi"
	"keylime/tpm"
)

// BootLog writes an event log as firmware does, and keeps what the TPM is extended with. It is not safe for concurrent
// use.
type BootLog struct {
	banks    []tpm.Hash
	legacy   bool // TCG 1.2: SHA-1 only, no header
	log      bytes.Buffer
	locality byte
	extends  []extension
}

type extension struct {
	pcr     int
	digests map[tpm.Hash][]byte
}

// NewBootLog starts a crypto-agile log of these banks with its header.
func NewBootLog(banks ...tpm.Hash) *BootLog {
	l := &BootLog{banks: banks}
	data := append([]byte("Spec ID Event03\x00"), 0, 0, 0, 0, 0, 2, 0, 2) // platform class, version 2.0, errata, UINTN size
	data = binary.LittleEndian.AppendUint32(data, uint32(len(banks)))
	for _, bank := range banks {
		data = binary.LittleEndian.AppendUint16(data, uint16(bank))
		data = binary.LittleEndian.AppendUint16(data, uint16(bank.Size()))
	}
	data = append(data, 0) // vendor information
	l.u32(0, uint32(uefi.NoAction))
	l.log.Write(make([]byte, tpm.SHA1.Size()))
	l.data(data)
	return l
}

// NewLegacyBootLog starts a log of TCG 1.2.
func NewLegacyBootLog() *BootLog { return &BootLog{banks: []tpm.Hash{tpm.SHA1}, legacy: true} }

// Bytes is the log so far.
func (l *BootLog) Bytes() []byte { return bytes.Clone(l.log.Bytes()) }

// Event measures a text: data is what the log says of it.
func (l *BootLog) Event(pcr int, kind uefi.EventType, data, measured []byte) {
	digests := map[tpm.Hash][]byte{}
	for _, bank := range l.banks {
		h := bank.Crypto().New()
		h.Write(measured)
		digests[bank] = h.Sum(nil)
	}
	l.record(pcr, kind, digests, data)
	l.extends = append(l.extends, extension{pcr, digests})
}

// Note adds an EV_NO_ACTION event, which extends nothing.
func (l *BootLog) Note(data []byte) {
	digests := map[tpm.Hash][]byte{}
	for _, bank := range l.banks {
		digests[bank] = make([]byte, bank.Size())
	}
	l.record(0, uefi.NoAction, digests, data)
}

// StartedFrom tells the locality that the TPM is started from. It has to come before the first event.
func (l *BootLog) StartedFrom(locality byte) {
	l.locality = locality
	l.Note(append([]byte("StartupLocality\x00"), locality))
}

// HCRTM measures the firmware's first part before the TPM is started. It has to be the first event.
func (l *BootLog) HCRTM(measured []byte) {
	l.locality = 4
	l.Event(0, uefi.HCRTMEvent, []byte("HCRTM"), measured)
}

func (l *BootLog) record(pcr int, kind uefi.EventType, digests map[tpm.Hash][]byte, data []byte) {
	l.u32(uint32(pcr), uint32(kind))
	if !l.legacy {
		l.u32(uint32(len(l.banks)))
	}
	for _, bank := range l.banks {
		if !l.legacy {
			l.log.Write(binary.LittleEndian.AppendUint16(nil, uint16(bank)))
		}
		l.log.Write(digests[bank])
	}
	l.data(data)
}

func (l *BootLog) data(b []byte) {
	l.u32(uint32(len(b)))
	l.log.Write(b)
}

func (l *BootLog) u32(fields ...uint32) {
	for _, f := range fields {
		l.log.Write(binary.LittleEndian.AppendUint32(nil, f))
	}
}

// Boot resets a TPM and extends it as the log says.
func (l *BootLog) Boot(t *SoftTPM) error {
	t.Reset()
	t.startFrom(l.locality)
	for i, e := range l.extends {
		own := map[tpm.Hash][]byte{}
		for _, bank := range l.banks {
			if slices.Contains(banks, bank) {
				own[bank] = e.digests[bank]
			}
		}
		if err := t.Extend(e.pcr, own); err != nil {
			return fmt.Errorf("boot, measurement %d: %w", i, err)
		}
	}
	return nil
}

// startFrom gives PCR 0 the value that it has after a start from a locality.
func (t *SoftTPM) startFrom(locality byte) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, b := range banks {
		t.pcrs[b][0][b.Size()-1] = locality
	}
}

// Variable is UEFI_VARIABLE_DATA: what events about a variable hold.
func Variable(vendor uefi.GUID, name string, data []byte) []byte {
	units := utf16.Encode([]rune(name))
	b := binary.LittleEndian.AppendUint64(vendor[:], uint64(len(units)))
	b = binary.LittleEndian.AppendUint64(b, uint64(len(data)))
	for _, u := range units {
		b = binary.LittleEndian.AppendUint16(b, u)
	}
	return append(b, data...)
}

// SignatureList is an EFI_SIGNATURE_LIST of entries of one length.
func SignatureList(kind, owner uefi.GUID, entries ...[]byte) []byte {
	if len(entries) == 0 {
		return nil
	}
	size := len(owner) + len(entries[0])
	b := binary.LittleEndian.AppendUint32(kind[:], uint32(28+size*len(entries)))
	b = binary.LittleEndian.AppendUint32(b, 0)
	b = binary.LittleEndian.AppendUint32(b, uint32(size))
	for _, e := range entries {
		b = append(append(b, owner[:]...), e...)
	}
	return b
}

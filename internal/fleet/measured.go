package fleet

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"slices"
	"sync"

	"keylime/tpm"
)

// BootAggregate is the path of the list's first entry.
const BootAggregate = "boot_aggregate"

// Measurement is one entry of a measurement list with a SHA-256 digest: of template ima-ng, of ima-sig when it has a
// signature, of ima-buf when it has a buffer.
type Measurement struct {
	Path      string // or the name of the buffer
	Digest    []byte // SHA-256 of the file or buffer
	Signature []byte // security.ima attribute
	Buffer    []byte // key or critical data
}

// template is the name of the entry's template, and its last field if it is not the name.
func (m Measurement) template() (name string, last []byte) {
	switch {
	case m.Buffer != nil:
		return "ima-buf", m.Buffer
	case m.Signature != nil:
		return "ima-sig", m.Signature
	}
	return "ima-ng", nil
}

// templateData is what the kernel hashes: the fields, each behind a little-endian length.
func (m Measurement) templateData() []byte {
	fields := [][]byte{slices.Concat([]byte("sha256:\x00"), m.Digest), slices.Concat([]byte(m.Path), []byte{0})}
	if _, last := m.template(); last != nil {
		fields = append(fields, last)
	}
	var b []byte
	for _, f := range fields {
		b = append(binary.LittleEndian.AppendUint32(b, uint32(len(f))), f...)
	}
	return b
}

// Line is the entry in the ASCII list, without a line end: PCR, SHA-1 of the template data, template, fields.
func (m Measurement) Line() string {
	h := tpm.SHA1.Crypto().New()
	h.Write(m.templateData())
	name, last := m.template()
	line := fmt.Sprintf("%d %x %s sha256:%s %s", tpm.PCRIma, h.Sum(nil), name, hex.EncodeToString(m.Digest), m.Path)
	if last != nil {
		line += " " + hex.EncodeToString(last)
	}
	return line
}

// Extends is what the kernel extends PCR 10 with: in each bank the bank's own digest of the template data.
func (m Measurement) Extends(banks ...tpm.Hash) map[tpm.Hash][]byte {
	data := m.templateData()
	digests := make(map[tpm.Hash][]byte, len(banks))
	for _, b := range banks {
		h := b.Crypto().New()
		h.Write(data)
		digests[b] = h.Sum(nil)
	}
	return digests
}

// BootMeasurement is the entry that the kernel starts a list with: the SHA-256 over PCRs 0 to 9 of that bank.
func BootMeasurement(pcr func(i int) []byte) Measurement {
	h := tpm.SHA256.Crypto().New()
	for i := range 10 {
		h.Write(pcr(i))
	}
	return Measurement{Path: BootAggregate, Digest: h.Sum(nil)}
}

// Measured is the measurement list of a SoftTPM. It is safe for concurrent use.
type Measured struct {
	mu    sync.Mutex
	tpm   *SoftTPM
	list  bytes.Buffer
	start []int // offset of each line in list
}

// NewMeasured starts the list with boot_aggregate, as the kernel does at boot.
func NewMeasured(t *SoftTPM) (*Measured, error) {
	m := &Measured{tpm: t}
	boot := BootMeasurement(func(i int) []byte { return t.PCR(tpm.SHA256, i) })
	if _, err := m.Add(boot.Path, boot.Digest); err != nil {
		return nil, err
	}
	return m, nil
}

// Add measures a file: the entry enters the list first and PCR 10 after it. It returns the line.
func (m *Measured) Add(path string, digest []byte) (line string, err error) {
	return m.Measure(Measurement{Path: path, Digest: digest})
}

// Measure does the same with any entry.
func (m *Measured) Measure(entry Measurement) (line string, err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	line = m.append(entry)
	return line, m.tpm.Extend(tpm.PCRIma, entry.Extends(banks...))
}

// Log adds an entry to the list that PCR 10 is not extended with: a list that was tampered with or runs ahead.
func (m *Measured) Log(path string, digest []byte) (line string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.append(Measurement{Path: path, Digest: digest})
}

func (m *Measured) append(entry Measurement) string {
	line := entry.Line()
	m.start = append(m.start, m.list.Len())
	m.list.WriteString(line)
	m.list.WriteByte('\n')
	return line
}

// Len is the number of entries.
func (m *Measured) Len() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return len(m.start)
}

// From is the list from an entry on and the index it starts at, as an agent answers: an entry that lies beyond
// the end, after a reboot, gives the whole list from 0.
func (m *Measured) From(entry uint64) (list []byte, first uint64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	switch n := uint64(len(m.start)); {
	case entry == n:
		return []byte{}, n
	case entry > n:
		return bytes.Clone(m.list.Bytes()), 0
	}
	return bytes.Clone(m.list.Bytes()[m.start[entry]:]), entry
}

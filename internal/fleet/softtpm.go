package fleet

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rsa"
	"encoding/binary"
	"fmt"
	"io"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/google/go-tpm/tpm2"

	"keylime/tpm"
)

const (
	pcrCount        = 24
	pcrFirstDynamic = 17 // PCRs 17 to 22 start with all bits set (PC Client profile)
	pcrLastDynamic  = 22

	// AKAttributes are those of a genuine AK: fixedTPM, fixedParent, sensitiveDataOrigin, userWithAuth,
	// restricted, sign.
	AKAttributes uint32 = 0x00050072
)

// banks are the PCR banks of every SoftTPM.
var banks = []tpm.Hash{tpm.SHA1, tpm.SHA256, tpm.SHA384}

// Model says what keys a SoftTPM has. Zero fields take defaults.
type Model struct {
	Alg        string   // of EK and AK: "rsa2048" (default), "rsa3072", "rsa4096", "ecc256", "ecc384", "ecc521"
	Sign       string   // "rsassa" (default), "rsapss"; "ecdsa" for ECC
	Hash       tpm.Hash // of the AK's name and scheme; default SHA-256
	Attributes uint32   // of the AK; default AKAttributes
	Salt       int      // bytes of an RSAPSS salt; default the digest's, as today's TPMs have it
}

// SoftTPM holds the keys and registers of one attester. It is safe for concurrent use; commands run one at a
// time, as on a TPM.
type SoftTPM struct {
	mu       sync.Mutex
	rand     io.Reader
	ek, ak   crypto.Signer
	ekPublic []byte
	akPublic []byte
	akName   []byte
	scheme   tpm2.TPMAlgID
	hash     tpm.Hash
	salt     int
	pcrs     map[tpm.Hash]*[pcrCount][]byte
	clock    tpm.Clock
}

// NewSoftTPM makes a TPM with an EK and a restricted AK of one algorithm, "rsa2048" or "ecc256", after its
// first start.
func NewSoftTPM(rand io.Reader, alg string) (*SoftTPM, error) {
	return Build(rand, Model{Alg: alg})
}

// Build makes a TPM of the given model, after its first start.
func Build(rand io.Reader, m Model) (*SoftTPM, error) {
	m = m.withDefaults()
	t := &SoftTPM{
		rand:  rand,
		hash:  m.Hash,
		salt:  m.Salt,
		clock: tpm.Clock{Clock: 1, ResetCount: 1, Safe: true},
	}
	var err error
	if t.ek, err = generate(rand, m.Alg); err != nil {
		return nil, fmt.Errorf("make EK: %w", err)
	}
	if t.ak, err = generate(rand, m.Alg); err != nil {
		return nil, fmt.Errorf("make AK: %w", err)
	}
	if t.ekPublic, err = ekArea(t.ek.Public()); err != nil {
		return nil, fmt.Errorf("make EK: %w", err)
	}
	area, err := akArea(t.ak.Public(), m)
	if err != nil {
		return nil, fmt.Errorf("make AK: %w", err)
	}
	t.scheme, t.akPublic = schemeOf(m.Sign), area
	pub, err := tpm.ParsePublic(area)
	if err != nil {
		return nil, fmt.Errorf("make AK: %w", err)
	}
	t.akName = pub.Name()
	t.clearPCRs()
	return t, nil
}

func (m Model) withDefaults() Model {
	if m.Alg == "" {
		m.Alg = "rsa2048"
	}
	if m.Sign == "" && m.Alg[0] == 'r' {
		m.Sign = "rsassa"
	} else if m.Sign == "" {
		m.Sign = "ecdsa"
	}
	if m.Hash == 0 {
		m.Hash = tpm.SHA256
	}
	if m.Salt == 0 {
		m.Salt = m.Hash.Size()
	}
	if m.Attributes == 0 {
		m.Attributes = AKAttributes
	}
	return m
}

func generate(rand io.Reader, alg string) (crypto.Signer, error) {
	switch alg {
	case "rsa2048":
		return rsa.GenerateKey(rand, 2048)
	case "rsa3072":
		return rsa.GenerateKey(rand, 3072)
	case "rsa4096":
		return rsa.GenerateKey(rand, 4096)
	case "ecc256":
		return ecdsa.GenerateKey(elliptic.P256(), rand)
	case "ecc384":
		return ecdsa.GenerateKey(elliptic.P384(), rand)
	case "ecc521":
		return ecdsa.GenerateKey(elliptic.P521(), rand)
	}
	return nil, fmt.Errorf("unknown key algorithm %q", alg)
}

// EKPublic is the TPM2B_PUBLIC of the endorsement key.
func (t *SoftTPM) EKPublic() []byte { return slices.Clone(t.ekPublic) }

// AKPublic is the TPM2B_PUBLIC of the attestation key.
func (t *SoftTPM) AKPublic() []byte { return slices.Clone(t.akPublic) }

// Clock is the clock of the last command.
func (t *SoftTPM) Clock() tpm.Clock {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.clock
}

// SetClock replaces the clock, to forge one.
func (t *SoftTPM) SetClock(c tpm.Clock) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.clock = c
}

// Advance lets powered time pass; each command takes a millisecond besides.
func (t *SoftTPM) Advance(d time.Duration) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.clock.Clock += uint64(d.Milliseconds())
}

// Reset is a reboot: PCRs start anew, the reset count rises and the restart count is zero.
func (t *SoftTPM) Reset() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.clock.ResetCount++
	t.clock.RestartCount = 0
	t.clearPCRs()
}

// Restart is a resume from suspension: PCRs stay, the restart count rises.
func (t *SoftTPM) Restart() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.clock.RestartCount++
}

func (t *SoftTPM) clearPCRs() {
	t.pcrs = map[tpm.Hash]*[pcrCount][]byte{}
	for _, b := range banks {
		t.pcrs[b] = new([pcrCount][]byte)
		for i := range pcrCount {
			t.pcrs[b][i] = startValue(b, i)
		}
	}
}

func startValue(bank tpm.Hash, pcr int) []byte {
	v := make([]byte, bank.Size())
	if pcr >= pcrFirstDynamic && pcr <= pcrLastDynamic {
		for i := range v {
			v[i] = 0xFF
		}
	}
	return v
}

// Extend extends a PCR with a digest in each bank that has one.
func (t *SoftTPM) Extend(pcr int, digests map[tpm.Hash][]byte) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, bank := range slices.Sorted(maps.Keys(digests)) {
		if t.pcrs[bank] == nil || len(digests[bank]) != bank.Size() || pcr < 0 || pcr >= pcrCount {
			return fmt.Errorf("extend PCR %d of bank %v with %d bytes: no such PCR or digest", pcr, bank, len(digests[bank]))
		}
	}
	for bank, d := range digests {
		h := bank.Crypto().New()
		h.Write(t.pcrs[bank][pcr])
		h.Write(d)
		t.pcrs[bank][pcr] = h.Sum(nil)
	}
	t.clock.Clock++
	return nil
}

// BindData resets PCR 16 and extends it with the digest of the transport key's PEM text in each bank, as an
// agent does before each quote.
func (t *SoftTPM) BindData(pubKeyPEM string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, b := range banks {
		t.pcrs[b][tpm.PCRData] = tpm.DataPCR(b, pubKeyPEM)
	}
	t.clock.Clock++
}

// PCR returns the value of a PCR; nil when there is none.
func (t *SoftTPM) PCR(bank tpm.Hash, i int) []byte {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.pcrs[bank] == nil || i < 0 || i >= pcrCount {
		return nil
	}
	return slices.Clone(t.pcrs[bank][i])
}

// Quote is TPM2_Quote over the PCRs of one bank, with the PCR blob that goes with it. As on a TPM the digest
// and the signature use the AK's own hash, whatever the bank.
func (t *SoftTPM) Quote(nonce []byte, mask tpm.Mask, bank tpm.Hash) (tpm.Quote, error) {
	attest, values, err := t.attest(nonce, mask, bank)
	if err != nil {
		return tpm.Quote{}, err
	}
	sig, err := t.SignAttest(attest)
	if err != nil {
		return tpm.Quote{}, err
	}
	return tpm.Quote{Attest: attest, Signature: sig, PCRBlob: tpm.MarshalPCRBlob(bank, mask, values)}, nil
}

// attest builds the TPMS_ATTEST of a quote and returns the values it covers.
func (t *SoftTPM) attest(nonce []byte, mask tpm.Mask, bank tpm.Hash) ([]byte, [][]byte, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.pcrs[bank] == nil {
		return nil, nil, fmt.Errorf("quote: no PCR bank %v", bank)
	}
	t.clock.Clock++
	h := t.hash.Crypto().New()
	var values [][]byte
	for _, i := range mask.PCRs() {
		values = append(values, t.pcrs[bank][i])
		h.Write(t.pcrs[bank][i])
	}
	return MarshalQuoteInfo(nonce, t.akName, t.clock, bank, mask, h.Sum(nil)), values, nil
}

// MarshalQuoteInfo writes the TPMS_ATTEST of a quote with one PCR selection, for SignAttest to sign: with
// other contents than a TPM would attest to, it is a forgery.
func MarshalQuoteInfo(nonce, signer []byte, c tpm.Clock, bank tpm.Hash, mask tpm.Mask, digest []byte) []byte {
	const magic, typeQuote, firmware = 0xFF544347, 0x8018, 0x2019102300163636
	be := binary.BigEndian
	b := be.AppendUint32(nil, magic)
	b = be.AppendUint16(b, typeQuote)
	b = appendSized(b, signer)
	b = appendSized(b, nonce)
	b = be.AppendUint64(b, c.Clock)
	b = be.AppendUint32(b, c.ResetCount)
	b = be.AppendUint32(b, c.RestartCount)
	b = append(b, yesNo(c.Safe))
	b = be.AppendUint64(b, firmware)
	b = be.AppendUint32(b, 1)
	b = be.AppendUint16(b, uint16(bank))
	b = append(b, 3, byte(mask), byte(mask>>8), byte(mask>>16))
	return appendSized(b, digest)
}

// appendSized appends a TPM2B.
func appendSized(b, content []byte) []byte {
	return append(binary.BigEndian.AppendUint16(b, uint16(len(content))), content...)
}

func yesNo(v bool) byte {
	if v {
		return 1
	}
	return 0
}

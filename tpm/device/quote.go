package device

import (
	"bytes"
	"context"
	"errors"
	"fmt"

	"github.com/google/go-tpm/tpm2"

	"keylime/tpm"
)

var (
	// ErrDataPCR says that PCR 16 did not hold what it was just extended with: another program uses it too.
	ErrDataPCR = errors.New("another program changes PCR 16, which Keylime needs for itself")

	// ErrUnsteady says that the PCRs changed between reading and quoting them, each time.
	ErrUnsteady = errors.New("PCRs change faster than they can be quoted")
)

const (
	// quoteTries bounds how often PCRs are read and quoted until both agree.
	quoteTries = 5

	// maxNonce is what every TPM with a 512-bit digest takes as qualifying data; one with less says so itself.
	maxNonce = 64
)

// Quote quotes the PCRs of mask and returns them with their values. Unless dataDigest is nil, PCR 16 is first
// reset, extended with it and added to mask. The TPM signs with the AK's hash, so bank should be that hash. The nonce
// has 1 to 64 bytes.
func (t *TPM) Quote(ctx context.Context, ak *AK, nonce []byte, mask tpm.Mask, bank tpm.Hash, dataDigest []byte) (tpm.Quote, error) {
	r := quoteRequest{nonce: nonce, mask: mask, bank: bank, data: dataDigest}
	if dataDigest != nil {
		r.mask = mask.With(tpm.PCRData)
	}
	if err := r.check(); err != nil {
		return tpm.Quote{}, fmt.Errorf("quote: %w", err)
	}
	var q tpm.Quote
	err := t.run(ctx, "quote", func(c *conn) error {
		return c.withAK(ak, func(key tpm2.AuthHandle) (err error) {
			q, err = c.quoteSteady(key, ak.Public.SchemeHash(), r)
			return err
		})
	})
	return q, err
}

// quoteRequest is what to quote.
type quoteRequest struct {
	nonce []byte
	mask  tpm.Mask
	bank  tpm.Hash
	data  []byte // nil, or the digest for PCR 16
}

func (r quoteRequest) check() error {
	switch n := len(r.nonce); {
	case n == 0 || n > maxNonce:
		return fmt.Errorf("nonce of %d bytes, want 1 to %d", n, maxNonce)
	case r.mask == 0 || r.mask != r.mask&allPCRs:
		return fmt.Errorf("PCR mask %v, want PCRs of 0 to 23", r.mask)
	case !r.bank.Valid():
		return fmt.Errorf("PCR bank: %w %v", tpm.ErrUnknownHash, r.bank)
	case r.data != nil && len(r.data) != r.bank.Size():
		return fmt.Errorf("data digest of %d bytes, want %d for %v", len(r.data), r.bank.Size(), r.bank)
	}
	return nil
}

// quoteSteady repeats the quote until the values read before it are those it signs: any program may extend PCRs
// in between, and the kernel does.
func (c *conn) quoteSteady(key tpm2.AuthHandle, digestAlg tpm.Hash, r quoteRequest) (tpm.Quote, error) {
	var err error
	for range quoteTries {
		if err = c.bindData(r); err != nil {
			return tpm.Quote{}, err
		}
		var values [][]byte
		if values, err = c.readPCRs(r.bank, r.mask); err != nil {
			return tpm.Quote{}, err
		}
		if !r.bound(values) {
			err = ErrDataPCR
			continue
		}
		var q tpm.Quote
		var digest []byte
		if q, digest, err = c.quote(key, r); err != nil {
			return tpm.Quote{}, err
		}
		if bytes.Equal(digest, hashAll(digestAlg, values...)) {
			q.PCRBlob = tpm.MarshalPCRBlob(r.bank, r.mask, values)
			return q, nil
		}
		err = ErrUnsteady
	}
	return tpm.Quote{}, fmt.Errorf("%w (%d tries)", err, quoteTries)
}

// bindData makes PCR 16 hold the data digest alone.
func (c *conn) bindData(r quoteRequest) error {
	if r.data == nil {
		return nil
	}
	if err := c.resetPCR(tpm.PCRData); err != nil {
		return err
	}
	return c.extendPCR(tpm.PCRData, map[tpm.Hash][]byte{r.bank: r.data})
}

// bound reports whether PCR 16, among the values of r.mask, is what bindData made it.
func (r quoteRequest) bound(values [][]byte) bool {
	if r.data == nil {
		return true
	}
	below := r.mask & (1<<tpm.PCRData - 1)
	return bytes.Equal(values[below.Count()], hashAll(r.bank, make([]byte, r.bank.Size()), r.data))
}

// quote is TPM2_Quote; digest is the one it signed.
func (c *conn) quote(key tpm2.AuthHandle, r quoteRequest) (q tpm.Quote, digest []byte, err error) {
	rsp, err := tpm2.Quote{
		SignHandle:     key,
		QualifyingData: tpm2.TPM2BData{Buffer: r.nonce},
		InScheme:       tpm2.TPMTSigScheme{Scheme: tpm2.TPMAlgNull},
		PCRSelect:      selection(r.bank, r.mask),
	}.Execute(c)
	if err != nil {
		return tpm.Quote{}, nil, err
	}
	attest, err := rsp.Quoted.Contents()
	if err != nil {
		return tpm.Quote{}, nil, err
	}
	info, err := attest.Attested.Quote()
	if err != nil {
		return tpm.Quote{}, nil, err
	}
	return tpm.Quote{Attest: rsp.Quoted.Bytes(), Signature: tpm2.Marshal(rsp.Signature)}, info.PCRDigest.Buffer, nil
}

func hashAll(alg tpm.Hash, parts ...[]byte) []byte {
	h := alg.Crypto().New()
	for _, p := range parts {
		h.Write(p)
	}
	return h.Sum(nil)
}

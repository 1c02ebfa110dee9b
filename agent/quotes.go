package agent

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"github.com/rs/zerolog"

	"keylime/internal/api"
	"keylime/tpm"
	"keylime/tpm/device"
)

// attester quotes PCRs with this agent's AK. Quoting is safe for concurrent use: the TPM serves one after the other,
// and a wait ends with the context.
type attester struct {
	tpm  *device.TPM
	ek   device.EKOptions
	blob device.AKBlob
	bank tpm.Hash // of the PCRs and of the signature
	data []byte   // digest of the transport key's text, for PCR 16; nil when there is none to bind
	log  zerolog.Logger

	mu sync.Mutex
	ak *device.AK
}

// quote quotes the mask's PCRs, and PCR 16 if there is something to bind, with the nonce.
func (a *attester) quote(ctx context.Context, nonce string, mask tpm.Mask) (quote tpm.Quote, err error) {
	err = a.withAK(ctx, func(ak *device.AK) (err error) {
		quote, err = a.tpm.Quote(ctx, ak, []byte(nonce), mask, a.bank, a.data)
		return err
	})
	return quote, err
}

// certify has the AK certify itself over the nonce.
func (a *attester) certify(ctx context.Context, nonce []byte) (attest, signature []byte, err error) {
	err = a.withAK(ctx, func(ak *device.AK) (err error) {
		attest, signature, err = a.tpm.CertifySelf(ctx, ak, nonce)
		return err
	})
	return attest, signature, err
}

// withAK uses the AK, and once more after loading it again if the TPM was reset meanwhile.
func (a *attester) withAK(ctx context.Context, use func(*device.AK) error) error {
	err := use(a.loaded())
	if !errors.Is(err, device.ErrTPMReset) {
		return err
	}
	a.log.Warn().Msg("TPM was reset: loading the attestation key again")
	if err := a.reload(ctx); err != nil {
		return err
	}
	return use(a.loaded())
}

func (a *attester) loaded() *device.AK {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.ak
}

// reload loads the AK again after the TPM forgot it.
func (a *attester) reload(ctx context.Context) error {
	ek, err := a.tpm.CreateEK(ctx, a.ek)
	if err != nil {
		return err
	}
	return a.load(ctx, ek)
}

func (a *attester) load(ctx context.Context, ek *device.EK) error {
	ak, err := a.tpm.LoadAK(ctx, ek, a.blob)
	if err != nil {
		return err
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.ak = ak
	return nil
}

// bind makes quotes bind the transport key's text.
func (a *attester) bind(transportKey string) {
	h := a.bank.Crypto().New()
	h.Write([]byte(transportKey))
	a.data = h.Sum(nil)
}

// checkDataPCR tries PCR 16 before the verifier does. Every quote resets and extends it, so a value that another
// program left there is worth a warning; one that keeps changing makes every quote fail.
func (a *attester) checkDataPCR(ctx context.Context, ownKey string) error {
	value, err := a.tpm.ReadPCR(ctx, a.bank, tpm.PCRData)
	if err != nil {
		return fmt.Errorf("read PCR %d of the %v bank (is the bank active?): %w", tpm.PCRData, a.bank, err)
	}
	own := tpm.DataPCR(a.bank, ownKey)
	if string(value) != string(own) && string(value) != string(make([]byte, len(value))) {
		a.log.Warn().Hex("value", value).Msg("PCR 16 was extended by another program: each quote resets it, which that program may not expect")
	}
	_, err = a.quote(ctx, "trial", 0)
	if errors.Is(err, device.ErrDataPCR) {
		a.log.Error().Err(err).Msg("quotes fail as long as another program changes PCR 16: stop that program")
		return nil
	}
	if err != nil {
		return fmt.Errorf("try a quote: %w", err)
	}
	return nil
}

// encAlg is the wire's name of the AK's kind in an API version: sizes are spelled out from 2.5 on.
func encAlg(ak *tpm.Public, version string) string {
	name := ak.EncAlg()
	if !api.Newer("2.5", version) {
		return name
	}
	switch name {
	case "rsa2048":
		return "rsa"
	case "ecc256":
		return "ecc"
	}
	return name
}

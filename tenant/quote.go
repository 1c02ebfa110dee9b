package tenant

import (
	"bytes"
	"context"
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	"keylime/internal/api"
	"keylime/internal/pki"
	"keylime/tpm"
)

// nonceLength: 24 of 62 characters are 142 bits; agents take up to 64 bytes, and a TPM with SHA-256 at most 34.
const nonceLength = 24

// identity is what an agent proved with a quote: that it speaks for the registered AK now, and that the transport key
// is its own.
type identity struct {
	transport *rsa.PublicKey
}

// proveIdentity asks the agent for an identity quote, with a fresh nonce for each try, and checks it.
func (t *tenant) proveIdentity(ctx context.Context, r *registration, a *agent) (identity, error) {
	var id identity
	err := t.patience.retry(ctx, func() (final bool, err error) {
		nonce, err := randomText(t.random, nonceLength)
		if err != nil {
			return true, err
		}
		res, err := a.client.IdentityQuote(ctx, a.version, nonce)
		if err != nil {
			return !temporary(err), asking(a.peer, "ask for an identity quote", err)
		}
		id, err = checkQuote(r, nonce, res, t.accepted())
		return !errors.Is(err, tpm.ErrClockUnsafe), distrust(r, a, err)
	}, func(n int, wait time.Duration, err error) {
		t.note("%v; try %d of %d in %v (Ctrl-C stops)", cause(err), n+1, t.patience.tries, wait)
	})
	return id, err
}

// distrust says what a quote that did not verify means for the operator.
func distrust(r *registration, a *agent, err error) error {
	if err == nil {
		return nil
	}
	hint := "do not enrol this agent before the cause is known: its registration must be of the TPM that answers"
	var refused notAccepted
	if errors.As(err, &refused) {
		hint = "if it is strong enough for you, add it to " + refused.option + " of [tenant]"
	}
	return failure(exitUntrusted, hint, "identity quote of agent %s at %s: %w", r.agent, a.peer.addr, err)
}

// notAccepted is an algorithm that the configuration does not list.
type notAccepted struct{ kind, alg, option string }

func (n notAccepted) Error() string {
	return fmt.Sprintf("%s algorithm %q is not in %s", n.kind, n.alg, n.option)
}

// temporary reports whether asking again may help: the agent gave no answer, or said that it is busy.
func temporary(err error) bool {
	var answer *api.Error
	if !errors.As(err, &answer) {
		return !errors.Is(err, context.Canceled) && !errors.Is(err, pki.ErrOtherCertificate) && tlsHint(err) == ""
	}
	return answer.Status == http.StatusServiceUnavailable || answer.Status == http.StatusGatewayTimeout
}

// acceptance are the algorithms that an agent may use, as [tenant] lists them.
type acceptance struct{ hash, enc, sign []string }

// checkQuote verifies an identity quote: algorithms accepted, signature of the registered AK over our nonce, and
// PCR 16 bound to the transport key that the answer carries.
func checkQuote(r *registration, nonce string, res api.QuoteResults, accept acceptance) (identity, error) {
	bank, err := tpm.ParseHash(res.HashAlg)
	if err != nil || !slices.Contains(accept.hash, res.HashAlg) {
		return identity{}, notAccepted{"hash", res.HashAlg, "accept_tpm_hash_algs"}
	}
	switch {
	case !tpm.AcceptsKeyType(accept.enc, res.EncAlg):
		return identity{}, notAccepted{"encryption", res.EncAlg, "accept_tpm_encryption_algs"}
	case tpm.KeyType(res.EncAlg) != r.ak.EncAlg():
		return identity{}, fmt.Errorf("encryption algorithm %q is not that of the AK, %s", res.EncAlg, r.ak.EncAlg())
	case !slices.Contains(accept.sign, res.SignAlg):
		return identity{}, notAccepted{"signing", res.SignAlg, "accept_tpm_signing_algs"}
	case res.SignAlg != r.ak.SignAlg():
		return identity{}, fmt.Errorf("signing algorithm %q is not that of the AK, %s", res.SignAlg, r.ak.SignAlg())
	}
	if res.PubKey == nil {
		return identity{}, errors.New("the answer lacks pubkey")
	}
	quote, err := tpm.ParseQuote(res.Quote)
	if err != nil {
		return identity{}, err
	}
	pcrs, err := tpm.VerifyQuote(r.ak, quote, tpm.Expected{Nonce: []byte(nonce), Mask: tpm.MaskOf(tpm.PCRData), Hash: bank})
	if err != nil {
		return identity{}, err
	}
	if value, ok := pcrs.PCR(tpm.PCRData); !ok || !bytes.Equal(value, tpm.DataPCR(bank, *res.PubKey)) {
		return identity{}, errors.New("PCR 16 does not bind the transport key in the answer")
	}
	if err := (tpm.Clock{}).Check(pcrs.Clock()); err != nil {
		return identity{}, err
	}
	transport, err := parseTransportKey(*res.PubKey)
	return identity{transport}, err
}

// parseTransportKey reads the RSA key that U and V are encrypted to.
func parseTransportKey(text string) (*rsa.PublicKey, error) {
	block, rest := pem.Decode([]byte(text))
	if block == nil || len(bytes.TrimSpace(rest)) > 0 {
		return nil, errors.New("transport key: not one PEM block")
	}
	key, err := x509.ParsePKIXPublicKey(block.Bytes)
	if err != nil {
		return nil, fmt.Errorf("transport key: %w", err)
	}
	public, ok := key.(*rsa.PublicKey)
	if !ok || public.N.BitLen() < 2048 || public.N.BitLen() > 8192 {
		return nil, errors.New("transport key: want RSA of 2048 to 8192 bits")
	}
	return public, nil
}

// cause is an error's message without its hint.
func cause(err error) string {
	first, _, _ := strings.Cut(err.Error(), "\n")
	return first
}

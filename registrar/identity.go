package registrar

import (
	"encoding/base64"
	"errors"
	"fmt"
	"time"

	"github.com/rs/zerolog"

	"keylime/internal/api"
	"keylime/store"
	"keylime/tpm"
)

// identityRules are what a registration must satisfy.
type identityRules struct {
	root      string // tpm_identity
	malformed string // malformed_cert_action
	issuers   *issuers
	log       zerolog.Logger
}

// Values of tpm_identity and malformed_cert_action that make a difference.
const (
	rootIAK         = "iak_idevid"
	malformedReject = "reject"
	malformedIgnore = "ignore"
)

// keys are the parsed keys that a credential is made with.
type keys struct{ ek, ak *tpm.Public }

// check judges a registration. req is the request it came with: a certification of the AK is no part of the record.
func (r identityRules) check(reg store.Registration, req api.RegisterRequest, now time.Time) (keys, error) {
	k, err := parseKeys(reg.Identity)
	if err != nil {
		return keys{}, err
	}
	if len(reg.Identity.EKCert) > 0 {
		if _, err := r.checkCertificate(reg.ID, "ekcert", reg.Identity.EKCert, k.ek); err != nil {
			return keys{}, err
		}
	}
	return k, r.checkDeviceIdentity(reg, req, k.ak, now)
}

// parseKeys reads EK and AK and checks that each is fit for its part: else the activation would prove nothing.
func parseKeys(i store.Identity) (k keys, err error) {
	if len(i.EKTPM) == 0 {
		return k, errors.New("ek_tpm is missing: without it there is no challenge to the TPM")
	}
	if len(i.AIKTPM) == 0 {
		return k, errors.New("aik_tpm is missing")
	}
	if k.ek, err = tpm.ParsePublic(i.EKTPM); err == nil {
		err = k.ek.CheckEK()
	}
	if err != nil {
		return k, fmt.Errorf("ek_tpm: %w", err)
	}
	if k.ak, err = tpm.ParsePublic(i.AIKTPM); err == nil {
		err = k.ak.CheckAK()
	}
	if err != nil {
		return k, fmt.Errorf("aik_tpm: %w", err)
	}
	return k, nil
}

// checkDeviceIdentity checks the initial attestation key (IAK) and the initial device identity (IDevID) of TCG's
// "TPM 2.0 Keys for Device Identity and Attestation": all of it or nothing, certified by a maker that we trust, and
// the IAK bound to this agent's AK whenever either is sent.
func (r identityRules) checkDeviceIdentity(reg store.Registration, req api.RegisterRequest, ak *tpm.Public, now time.Time) error {
	i := reg.Identity
	parts := 0
	for _, p := range [][]byte{i.IAKTPM, i.IDevIDTPM, i.IAKCert, i.IDevIDCert} {
		if len(p) > 0 {
			parts++
		}
	}
	switch {
	case parts == 0 && r.root == rootIAK:
		return errors.New("iak_tpm and idevid_tpm are missing, and tpm_identity of the registrar demands them")
	case parts == 0:
		return nil
	case parts != 4:
		return errors.New("iak_tpm, iak_cert, idevid_tpm and idevid_cert must be sent together")
	}
	r.log.Info().Str("id", reg.ID).Msg("IDevID and IAK received")
	iak, err := tpm.ParsePublic(i.IAKTPM)
	if err != nil {
		return fmt.Errorf("iak_tpm: %w", err)
	}
	idevid, err := tpm.ParsePublic(i.IDevIDTPM)
	if err != nil {
		return fmt.Errorf("idevid_tpm: %w", err)
	}
	for _, c := range []struct {
		field, title string
		der          []byte
		key          *tpm.Public
	}{{"iak_cert", "IAK", i.IAKCert, iak}, {"idevid_cert", "IDevID", i.IDevIDCert, idevid}} {
		cert, err := r.checkCertificate(reg.ID, c.field, c.der, c.key)
		if err != nil {
			return err
		}
		if err := r.issuers.verify(cert, now); err != nil {
			r.log.Error().Str("id", reg.ID).Err(err).Msg("No Root CA matched " + c.title + " Certificate")
			return fmt.Errorf("%s: no CA of the registrar's certificate store stands behind it", c.field)
		}
	}
	if req.IAKTPM == nil && req.AIKTPM == nil {
		return nil // both are those of the active registration, where the binding was checked
	}
	if err := checkBinding(reg.ID, req, iak, ak); err != nil {
		return err
	}
	r.log.Info().Str("id", reg.ID).Msg("Agent " + reg.ID + " AIK verified with IAK")
	return nil
}

// checkBinding checks the IAK's certification of the AK.
func checkBinding(id string, req api.RegisterRequest, iak, ak *tpm.Public) error {
	if req.IAKAttest == nil || req.IAKSign == nil {
		return errors.New("iak_attest and iak_sign are missing: they bind the AK to the IAK")
	}
	attest, err := base64.StdEncoding.Strict().DecodeString(*req.IAKAttest)
	if err != nil {
		return fmt.Errorf("iak_attest: %w", err)
	}
	signature, err := base64.StdEncoding.Strict().DecodeString(*req.IAKSign)
	if err != nil {
		return fmt.Errorf("iak_sign: %w", err)
	}
	return tpm.VerifyCertify(iak, attest, signature, id, ak)
}

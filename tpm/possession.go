package tpm

import (
	"errors"
	"fmt"
)

// VerifyPossession checks that whoever answers holds the AK: the AK certified itself (TPM2_Certify, object and signing
// key the same) with the nonce as qualifying data.
func VerifyPossession(ak *Public, attest, signature, nonce []byte) error {
	if err := verifyPossession(ak, attest, signature, nonce); err != nil {
		return fmt.Errorf("verify the AK's certification of itself: %w", err)
	}
	return nil
}

func verifyPossession(ak *Public, attest, sigBytes, nonce []byte) error {
	if len(nonce) == 0 {
		return errors.New("no nonce")
	}
	if err := ak.CheckAK(); err != nil {
		return err
	}
	c, err := verifyCertified(ak, attest, sigBytes)
	if err != nil {
		return err
	}
	if string(c.extraData) != string(nonce) {
		return errors.New("qualifying data is not the nonce")
	}
	if string(c.name) != string(ak.name) {
		return errors.New("certified key is another one than the AK")
	}
	return nil
}

// verifyCertified reads a TPMS_ATTEST of a certification that key signed.
func verifyCertified(key *Public, attest, sigBytes []byte) (certified, error) {
	sig, err := parseSignature(sigBytes)
	if err != nil {
		return certified{}, err
	}
	if err := sig.verify(key, attest); err != nil {
		return certified{}, err
	}
	return parseCertified(attest)
}

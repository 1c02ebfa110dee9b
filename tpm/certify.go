package tpm

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
)

// VerifyCertify checks that the IAK certified the AK (TPM2_Certify) for this agent. The qualifying data is the
// SHA-256 of the agent's id, or the id itself as agents before API 2.6 have it.
func VerifyCertify(iak *Public, attest, signature []byte, agentID string, ak *Public) error {
	if err := verifyCertify(iak, attest, signature, agentID, ak); err != nil {
		return fmt.Errorf("verify the IAK's certification of the AK: %w", err)
	}
	return nil
}

func verifyCertify(iak *Public, attest, sigBytes []byte, agentID string, ak *Public) error {
	if agentID == "" {
		return errors.New("no agent id")
	}
	if err := iak.CheckAK(); err != nil {
		return fmt.Errorf("IAK: %w", err)
	}
	c, err := verifyCertified(iak, attest, sigBytes)
	if err != nil {
		return err
	}
	digest := sha256.Sum256([]byte(agentID))
	if !bytes.Equal(c.extraData, digest[:]) && string(c.extraData) != agentID {
		return errors.New("qualifying data is not this agent's id")
	}
	if !bytes.Equal(c.name, ak.name) {
		return errors.New("certified key is another one than the AK")
	}
	return nil
}

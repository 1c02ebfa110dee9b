package fleet

import (
	"bytes"
	"crypto"
	"crypto/aes"
	"crypto/ecdsa"
	"crypto/hmac"
	"crypto/rsa"
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/google/go-tpm/tpm2"

	"keylime/tpm"
)

// Activate is TPM2_ActivateCredential: it recovers the secret of a credential that was made for this TPM's EK
// and AK (TPM 2.0 Library part 1, "Credential Protection").
func (t *SoftTPM) Activate(blob []byte) ([]byte, error) {
	idObject, encSecret, err := tpm.ParseCredential(blob)
	if err != nil {
		return nil, err
	}
	const nameAlg = crypto.SHA256 // of both default EK templates
	seed, err := t.decapsulate(nameAlg, encSecret)
	if err != nil {
		return nil, fmt.Errorf("activate credential: %w", err)
	}
	integrity, content := idObject[2:2+nameAlg.Size()], idObject[2+nameAlg.Size():]
	mac := hmac.New(nameAlg.New, tpm2.KDFa(nameAlg, seed, "INTEGRITY", nil, nil, nameAlg.Size()*8))
	mac.Write(content)
	mac.Write(t.akName)
	if !hmac.Equal(mac.Sum(nil), integrity) {
		return nil, errors.New("activate credential: made for another EK or AK")
	}
	plain, err := decryptCFB(tpm2.KDFa(nameAlg, seed, "STORAGE", t.akName, nil, 128), content)
	if err != nil {
		return nil, fmt.Errorf("activate credential: %w", err)
	}
	if len(plain) < 2 || int(binary.BigEndian.Uint16(plain)) != len(plain)-2 {
		return nil, errors.New("activate credential: content is no TPM2B")
	}
	return plain[2:], nil
}

// decapsulate recovers the seed that the EK protects.
func (t *SoftTPM) decapsulate(h crypto.Hash, encSecret []byte) ([]byte, error) {
	const label = "IDENTITY"
	switch ek := t.ek.(type) {
	case *rsa.PrivateKey:
		return rsa.DecryptOAEP(h.New(), nil, ek, encSecret, []byte(label+"\x00"))
	case *ecdsa.PrivateKey:
		point, err := tpm2.Unmarshal[tpm2.TPMSECCPoint](encSecret)
		if err != nil {
			return nil, err
		}
		own, err := ek.ECDH()
		if err != nil {
			return nil, err
		}
		peer, err := own.Curve().NewPublicKey(bytes.Join([][]byte{{4}, point.X.Buffer, point.Y.Buffer}, nil))
		if err != nil {
			return nil, err
		}
		z, err := own.ECDH(peer)
		if err != nil {
			return nil, err
		}
		ownX, _ := coordinates(own.PublicKey().Bytes())
		return tpm2.KDFe(h, z, label, point.X.Buffer, ownX, h.Size()*8), nil
	}
	return nil, fmt.Errorf("no decryption with a %T", t.ek)
}

// decryptCFB is AES in CFB mode with a zero IV, which part 1 prescribes and newer protocols don't.
func decryptCFB(key, ciphertext []byte) ([]byte, error) {
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, err
	}
	plain := make([]byte, len(ciphertext))
	mask, feedback := make([]byte, aes.BlockSize), make([]byte, aes.BlockSize)
	for at := 0; at < len(ciphertext); at += aes.BlockSize {
		block.Encrypt(mask, feedback)
		n := min(aes.BlockSize, len(ciphertext)-at)
		for i := range n {
			plain[at+i] = ciphertext[at+i] ^ mask[i]
		}
		copy(feedback, ciphertext[at:at+n])
	}
	return plain, nil
}

package fleet

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/rsa"
	"encoding/binary"
	"fmt"
	"math/big"

	"github.com/google/go-tpm/tpm2"

	"keylime/tpm"
)

// ekArea is the TPM2B_PUBLIC of an endorsement key: the TCG's default template with this key in it.
func ekArea(key crypto.PublicKey) ([]byte, error) {
	area := tpm2.RSAEKTemplate
	if k, ok := key.(*ecdsa.PublicKey); ok {
		area = tpm2.ECCEKTemplate
		area.Parameters = tpm2.NewTPMUPublicParms(tpm2.TPMAlgECC, &tpm2.TPMSECCParms{
			Symmetric: aes128(), CurveID: curveOf(k),
		})
	} else {
		area.Parameters = tpm2.NewTPMUPublicParms(tpm2.TPMAlgRSA, &tpm2.TPMSRSAParms{
			Symmetric: aes128(), KeyBits: tpm2.TPMKeyBits(key.(*rsa.PublicKey).N.BitLen()),
		})
	}
	unique, err := uniqueOf(key)
	if err != nil {
		return nil, err
	}
	area.Unique = unique
	return tpm2.Marshal(tpm2.New2B(area)), nil
}

func aes128() tpm2.TPMTSymDefObject {
	return tpm2.TPMTSymDefObject{
		Algorithm: tpm2.TPMAlgAES,
		KeyBits:   tpm2.NewTPMUSymKeyBits(tpm2.TPMAlgAES, tpm2.TPMKeyBits(128)),
		Mode:      tpm2.NewTPMUSymMode(tpm2.TPMAlgAES, tpm2.TPMAlgCFB),
	}
}

// akArea is the TPM2B_PUBLIC of a signing key.
func akArea(key crypto.PublicKey, m Model) ([]byte, error) {
	hash := tpm2.TPMAlgID(m.Hash)
	unique, err := uniqueOf(key)
	if err != nil {
		return nil, err
	}
	area := tpm2.TPMTPublic{NameAlg: hash, Unique: unique}
	attributes, err := tpm2.Unmarshal[tpm2.TPMAObject](binary.BigEndian.AppendUint32(nil, m.Attributes))
	if err != nil {
		return nil, fmt.Errorf("attributes 0x%08x: %w", m.Attributes, err)
	}
	area.ObjectAttributes = *attributes
	switch k := key.(type) {
	case *rsa.PublicKey:
		if m.Sign != "rsassa" && m.Sign != "rsapss" {
			return nil, fmt.Errorf("an RSA key does not sign with %q", m.Sign)
		}
		area.Type = tpm2.TPMAlgRSA
		scheme := tpm2.NewTPMUAsymScheme(tpm2.TPMAlgRSASSA, &tpm2.TPMSSigSchemeRSASSA{HashAlg: hash})
		if m.Sign == "rsapss" {
			scheme = tpm2.NewTPMUAsymScheme(tpm2.TPMAlgRSAPSS, &tpm2.TPMSSigSchemeRSAPSS{HashAlg: hash})
		}
		area.Parameters = tpm2.NewTPMUPublicParms(tpm2.TPMAlgRSA, &tpm2.TPMSRSAParms{
			Scheme:  tpm2.TPMTRSAScheme{Scheme: schemeOf(m.Sign), Details: scheme},
			KeyBits: tpm2.TPMKeyBits(k.N.BitLen()),
		})
	case *ecdsa.PublicKey:
		if m.Sign != "ecdsa" {
			return nil, fmt.Errorf("an ECC key does not sign with %q", m.Sign)
		}
		area.Type = tpm2.TPMAlgECC
		area.Parameters = tpm2.NewTPMUPublicParms(tpm2.TPMAlgECC, &tpm2.TPMSECCParms{
			Scheme: tpm2.TPMTECCScheme{
				Scheme:  tpm2.TPMAlgECDSA,
				Details: tpm2.NewTPMUAsymScheme(tpm2.TPMAlgECDSA, &tpm2.TPMSSigSchemeECDSA{HashAlg: hash}),
			},
			CurveID: curveOf(k),
		})
	}
	return tpm2.Marshal(tpm2.New2B(area)), nil
}

func uniqueOf(key crypto.PublicKey) (tpm2.TPMUPublicID, error) {
	if k, ok := key.(*rsa.PublicKey); ok {
		return tpm2.NewTPMUPublicID(tpm2.TPMAlgRSA, &tpm2.TPM2BPublicKeyRSA{Buffer: k.N.Bytes()}), nil
	}
	point, err := key.(*ecdsa.PublicKey).Bytes()
	if err != nil {
		return tpm2.TPMUPublicID{}, err
	}
	x, y := coordinates(point)
	return tpm2.NewTPMUPublicID(tpm2.TPMAlgECC, &tpm2.TPMSECCPoint{
		X: tpm2.TPM2BECCParameter{Buffer: x},
		Y: tpm2.TPM2BECCParameter{Buffer: y},
	}), nil
}

// coordinates splits an uncompressed point (SEC 1, 2.3.3).
func coordinates(point []byte) (x, y []byte) {
	width := (len(point) - 1) / 2
	return point[1 : 1+width], point[1+width:]
}

func fieldBytes(k *ecdsa.PublicKey) int { return (k.Curve.Params().BitSize + 7) / 8 }

func curveOf(k *ecdsa.PublicKey) tpm2.TPMECCCurve {
	switch k.Curve.Params().BitSize {
	case 384:
		return tpm2.TPMECCNistP384
	case 521:
		return tpm2.TPMECCNistP521
	}
	return tpm2.TPMECCNistP256
}

func schemeOf(sign string) tpm2.TPMAlgID {
	switch sign {
	case "rsapss":
		return tpm2.TPMAlgRSAPSS
	case "ecdsa":
		return tpm2.TPMAlgECDSA
	}
	return tpm2.TPMAlgRSASSA
}

// SignAttest signs any bytes with the AK and returns the TPMT_SIGNATURE. A TPM's restricted key would do this
// only for structures that the TPM made.
func (t *SoftTPM) SignAttest(raw []byte) ([]byte, error) {
	h := t.hash.Crypto().New()
	h.Write(raw)
	digest := h.Sum(nil)
	b := binary.BigEndian.AppendUint16(nil, uint16(t.scheme))
	b = binary.BigEndian.AppendUint16(b, uint16(t.hash))
	switch k := t.ak.(type) {
	case *ecdsa.PrivateKey:
		r, s, err := ecdsa.Sign(t.rand, k, digest)
		if err != nil {
			return nil, fmt.Errorf("sign: %w", err)
		}
		for _, n := range []*big.Int{r, s} {
			b = appendSized(b, n.FillBytes(make([]byte, fieldBytes(&k.PublicKey))))
		}
		return b, nil
	default:
		var opts crypto.SignerOpts = t.hash.Crypto()
		if t.scheme == tpm2.TPMAlgRSAPSS {
			opts = &rsa.PSSOptions{SaltLength: t.salt, Hash: t.hash.Crypto()}
		}
		sig, err := k.Sign(t.rand, digest, opts)
		if err != nil {
			return nil, fmt.Errorf("sign: %w", err)
		}
		return appendSized(b, sig), nil
	}
}

// Certify signs the TPMS_ATTEST of a TPM2_Certify of an object with this TPM's AK in the role of an IAK.
func (t *SoftTPM) Certify(qualifying []byte, object *tpm.Public) (attest, signature []byte, err error) {
	const magic, typeCertify = 0xFF544347, 0x8017
	c := t.Clock()
	b := binary.BigEndian.AppendUint32(nil, magic)
	b = binary.BigEndian.AppendUint16(b, typeCertify)
	b = appendSized(b, t.akName)
	b = appendSized(b, qualifying)
	b = binary.BigEndian.AppendUint64(b, c.Clock)
	b = binary.BigEndian.AppendUint32(b, c.ResetCount)
	b = binary.BigEndian.AppendUint32(b, c.RestartCount)
	b = append(b, yesNo(c.Safe))
	b = binary.BigEndian.AppendUint64(b, 0)
	b = appendSized(b, object.Name())
	b = appendSized(b, object.Name())
	signature, err = t.SignAttest(b)
	return b, signature, err
}

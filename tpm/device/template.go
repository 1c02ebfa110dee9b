package device

import (
	"encoding/hex"
	"fmt"

	"github.com/google/go-tpm/tpm2"

	"keylime/tpm"
)

// ekTemplate is a template of the TCG EK Credential Profile for TPM 2.0 and the NV index of the certificate for
// the key it makes.
type ekTemplate struct {
	index  tpm2.TPMHandle
	public tpm2.TPMTPublic
}

// ekTemplates lists the templates of one key algorithm in the order to try them: low range first.
func ekTemplates(alg string) ([]ekTemplate, error) {
	switch alg {
	case "", "rsa", "rsa2048":
		return []ekTemplate{
			{0x01c00002, tpm2.RSAEKTemplate},
			{0x01c00012, highRange(tpm.SHA256, rsaParms(2048, 128, noScheme))},
		}, nil
	case "rsa3072":
		return []ekTemplate{{0x01c0001c, highRange(tpm.SHA384, rsaParms(3072, 256, noScheme))}}, nil
	case "rsa4096":
		return []ekTemplate{{0x01c0001e, highRange(tpm.SHA384, rsaParms(4096, 256, noScheme))}}, nil
	case "ecc", "ecc256":
		return []ekTemplate{
			{0x01c0000a, tpm2.ECCEKTemplate},
			{0x01c00014, highRange(tpm.SHA256, eccParms(tpm2.TPMECCNistP256, 128, noScheme))},
		}, nil
	case "ecc384":
		return []ekTemplate{{0x01c00016, highRange(tpm.SHA384, eccParms(tpm2.TPMECCNistP384, 256, noScheme))}}, nil
	case "ecc521":
		return []ekTemplate{{0x01c00018, highRange(tpm.SHA512, eccParms(tpm2.TPMECCNistP521, 256, noScheme))}}, nil
	}
	return nil, fmt.Errorf("unknown key algorithm %q; want rsa2048, rsa3072, rsa4096, ecc256, ecc384 or ecc521", alg)
}

// highRange completes a template of the profile's high range: userWithAuth is set, the policy (PolicyB) is met
// by the endorsement hierarchy's authorisation or by one in NV, and unique is empty.
func highRange(nameAlg tpm.Hash, kind keyKind) tpm2.TPMTPublic {
	return tpm2.TPMTPublic{
		Type:    kind.alg,
		NameAlg: tpm2.TPMAlgID(nameAlg),
		ObjectAttributes: tpm2.TPMAObject{
			FixedTPM:            true,
			FixedParent:         true,
			SensitiveDataOrigin: true,
			UserWithAuth:        true,
			AdminWithPolicy:     true,
			Restricted:          true,
			Decrypt:             true,
		},
		AuthPolicy: tpm2.TPM2BDigest{Buffer: policyB(nameAlg)},
		Parameters: kind.parms,
		Unique:     kind.unique,
	}
}

// policyB is the profile's PolicyB of a name algorithm.
func policyB(h tpm.Hash) []byte {
	text := map[tpm.Hash]string{
		tpm.SHA256: "ca3d0a99a2b93906f7a3342414efcfb3a385d44cd1fd459089d19b5071c0b7a0",
		tpm.SHA384: "b26e7d28d11a50bc53d882bcf5fd3a1a074148bb35d3b4e4cb1c0ad9bde419cacb47ba09699646150f9fc000f3f80e12",
		tpm.SHA512: "b8221ca69e8550a4914de3faa6a18c072cc01208073a928d5d66d59ef79e49a4" +
			"29c41a6b269571d57edb25fbdb1838425608b413cd616a5f6db5b6071af99bea",
	}[h]
	b, err := hex.DecodeString(text)
	if err != nil {
		panic("device: malformed policy constant")
	}
	return b
}

// akTemplate is a restricted signing key with an empty policy.
func akTemplate(hash tpm.Hash, signScheme, alg string) (tpm2.TPMTPublic, error) {
	kind, err := akKind(hash, signScheme, alg)
	if err != nil {
		return tpm2.TPMTPublic{}, err
	}
	return tpm2.TPMTPublic{
		Type:    kind.alg,
		NameAlg: tpm2.TPMAlgID(hash),
		ObjectAttributes: tpm2.TPMAObject{
			FixedTPM:            true,
			FixedParent:         true,
			SensitiveDataOrigin: true,
			UserWithAuth:        true,
			Restricted:          true,
			SignEncrypt:         true,
		},
		Parameters: kind.parms,
		Unique:     kind.unique,
	}, nil
}

func akKind(hash tpm.Hash, signScheme, alg string) (keyKind, error) {
	s := scheme{hash: tpm2.TPMAlgID(hash)}
	isRSA := true
	switch signScheme {
	case "rsassa":
		s.alg = tpm2.TPMAlgRSASSA
	case "rsapss":
		s.alg = tpm2.TPMAlgRSAPSS
	case "ecdsa":
		s.alg, isRSA = tpm2.TPMAlgECDSA, false
	default:
		return keyKind{}, fmt.Errorf("unknown signing scheme %q; want rsassa, rsapss or ecdsa", signScheme)
	}
	if !hash.Valid() {
		return keyKind{}, fmt.Errorf("signing scheme %s: %w %v", signScheme, tpm.ErrUnknownHash, hash)
	}
	switch {
	case isRSA && (alg == "" || alg == "rsa" || alg == "rsa2048"):
		return rsaParms(2048, 0, s), nil
	case isRSA && alg == "rsa3072":
		return rsaParms(3072, 0, s), nil
	case isRSA && alg == "rsa4096":
		return rsaParms(4096, 0, s), nil
	case !isRSA && (alg == "ecc" || alg == "ecc256"):
		return eccParms(tpm2.TPMECCNistP256, 0, s), nil
	case !isRSA && alg == "ecc384":
		return eccParms(tpm2.TPMECCNistP384, 0, s), nil
	case !isRSA && alg == "ecc521":
		return eccParms(tpm2.TPMECCNistP521, 0, s), nil
	}
	return keyKind{}, fmt.Errorf("no key of algorithm %q signs with %s", alg, signScheme)
}

// keyKind is what differs between an RSA and an ECC template.
type keyKind struct {
	alg    tpm2.TPMAlgID
	parms  tpm2.TPMUPublicParms
	unique tpm2.TPMUPublicID
}

// scheme is a signing scheme; its zero value none.
type scheme struct{ alg, hash tpm2.TPMAlgID }

var noScheme scheme

func rsaParms(bits, aesBits tpm2.TPMKeyBits, s scheme) keyKind {
	parms := tpm2.TPMSRSAParms{KeyBits: bits, Symmetric: aesCFB(aesBits)}
	switch s.alg {
	case tpm2.TPMAlgRSASSA:
		parms.Scheme = tpm2.TPMTRSAScheme{Scheme: s.alg, Details: tpm2.NewTPMUAsymScheme(s.alg, &tpm2.TPMSSigSchemeRSASSA{HashAlg: s.hash})}
	case tpm2.TPMAlgRSAPSS:
		parms.Scheme = tpm2.TPMTRSAScheme{Scheme: s.alg, Details: tpm2.NewTPMUAsymScheme(s.alg, &tpm2.TPMSSigSchemeRSAPSS{HashAlg: s.hash})}
	}
	return keyKind{
		alg:    tpm2.TPMAlgRSA,
		parms:  tpm2.NewTPMUPublicParms(tpm2.TPMAlgRSA, &parms),
		unique: tpm2.NewTPMUPublicID(tpm2.TPMAlgRSA, &tpm2.TPM2BPublicKeyRSA{}),
	}
}

func eccParms(curve tpm2.TPMECCCurve, aesBits tpm2.TPMKeyBits, s scheme) keyKind {
	parms := tpm2.TPMSECCParms{CurveID: curve, Symmetric: aesCFB(aesBits)}
	if s.alg == tpm2.TPMAlgECDSA {
		parms.Scheme = tpm2.TPMTECCScheme{Scheme: s.alg, Details: tpm2.NewTPMUAsymScheme(s.alg, &tpm2.TPMSSigSchemeECDSA{HashAlg: s.hash})}
	}
	return keyKind{
		alg:    tpm2.TPMAlgECC,
		parms:  tpm2.NewTPMUPublicParms(tpm2.TPMAlgECC, &parms),
		unique: tpm2.NewTPMUPublicID(tpm2.TPMAlgECC, &tpm2.TPMSECCPoint{}),
	}
}

// aesCFB is the symmetric algorithm of a storage key; of no bits, that of a signing key: none.
func aesCFB(bits tpm2.TPMKeyBits) tpm2.TPMTSymDefObject {
	if bits == 0 {
		return tpm2.TPMTSymDefObject{}
	}
	return tpm2.TPMTSymDefObject{
		Algorithm: tpm2.TPMAlgAES,
		KeyBits:   tpm2.NewTPMUSymKeyBits(tpm2.TPMAlgAES, bits),
		Mode:      tpm2.NewTPMUSymMode(tpm2.TPMAlgAES, tpm2.TPMAlgCFB),
	}
}

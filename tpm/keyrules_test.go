package tpm_test

import (
	"bytes"
	"crypto/rand"
	"errors"
	"testing"

	"github.com/google/go-tpm/tpm2"

	"keylime/internal/fleet"
	"keylime/tpm"
)

// edited is a public area with changes made to it.
func edited(t *testing.T, tpm2b []byte, change func(*tpm2.TPMTPublic)) []byte {
	t.Helper()
	area, err := tpm2.Unmarshal[tpm2.TPMTPublic](tpm2b[2:])
	if err != nil {
		t.Fatal(err)
	}
	change(area)
	return tpm2.Marshal(tpm2.New2B(*area))
}

func newKeys(t *testing.T, alg string) (ek, ak []byte) {
	t.Helper()
	soft, err := fleet.NewSoftTPM(rand.Reader, alg)
	if err != nil {
		t.Fatal(err)
	}
	return soft.EKPublic(), soft.AKPublic()
}

// NT-01, NT-02, NT-03: only a restricted signing key that the TPM made and keeps is an AK.
func TestUnfitAKs(t *testing.T) {
	t.Parallel()
	for _, alg := range []string{"rsa2048", "ecc256"} {
		ek, ak := newKeys(t, alg)
		for _, c := range []struct {
			name   string
			area   []byte
			change func(*tpm2.TPMTPublic)
		}{
			{"not restricted", ak, func(p *tpm2.TPMTPublic) { p.ObjectAttributes.Restricted = false }},
			{"not fixedTPM", ak, func(p *tpm2.TPMTPublic) { p.ObjectAttributes.FixedTPM = false }},
			{"not fixedParent", ak, func(p *tpm2.TPMTPublic) { p.ObjectAttributes.FixedParent = false }},
			{"not sensitiveDataOrigin", ak, func(p *tpm2.TPMTPublic) { p.ObjectAttributes.SensitiveDataOrigin = false }},
			{"not sign", ak, func(p *tpm2.TPMTPublic) { p.ObjectAttributes.SignEncrypt = false }},
			{"decrypt as well", ak, func(p *tpm2.TPMTPublic) { p.ObjectAttributes.Decrypt = true }},
			{"storage key", ek, func(*tpm2.TPMTPublic) {}},
			{"storage key that signs", ek, func(p *tpm2.TPMTPublic) {
				p.ObjectAttributes.Decrypt, p.ObjectAttributes.SignEncrypt = false, true
			}},
			{"no scheme", ak, withoutScheme},
		} {
			p := mustParse(t, edited(t, c.area, c.change))
			if err := p.CheckAK(); !errors.Is(err, tpm.ErrKeyUnfit) {
				t.Errorf("%s %s: %v, want ErrKeyUnfit", alg, c.name, err)
			}
		}
		if err := mustParse(t, ak).CheckAK(); err != nil {
			t.Errorf("%s: %v", alg, err)
		}
	}
}

func withoutScheme(p *tpm2.TPMTPublic) {
	if rsa, err := p.Parameters.RSADetail(); err == nil {
		rsa.Scheme = tpm2.TPMTRSAScheme{}
		p.Parameters = tpm2.NewTPMUPublicParms(tpm2.TPMAlgRSA, rsa)
		return
	}
	ecc, err := p.Parameters.ECCDetail()
	if err != nil {
		panic(err)
	}
	ecc.Scheme = tpm2.TPMTECCScheme{}
	p.Parameters = tpm2.NewTPMUPublicParms(tpm2.TPMAlgECC, ecc)
}

// NT-03: schemes that cannot be verified here.
func TestUnfitSchemes(t *testing.T) {
	t.Parallel()
	_, rsaAK := newKeys(t, "rsa2048")
	_, eccAK := newKeys(t, "ecc256")
	oaep := edited(t, rsaAK, func(p *tpm2.TPMTPublic) {
		rsa, err := p.Parameters.RSADetail()
		if err != nil {
			t.Fatal(err)
		}
		rsa.Scheme = tpm2.TPMTRSAScheme{Scheme: tpm2.TPMAlgOAEP,
			Details: tpm2.NewTPMUAsymScheme(tpm2.TPMAlgOAEP, &tpm2.TPMSEncSchemeOAEP{HashAlg: tpm2.TPMAlgSHA256})}
	})
	schnorr := bytes.Clone(eccAK)
	const schemeAt = 14
	schnorr[schemeAt+1] = 0x1C
	for name, area := range map[string][]byte{"oaep": oaep, "ecschnorr": schnorr} {
		if err := mustParse(t, area).CheckAK(); !errors.Is(err, tpm.ErrKeyUnfit) {
			t.Errorf("%s: %v, want ErrKeyUnfit", name, err)
		}
	}
}

// NT-03: keys of 1,024 bits are parsed, so that they can be named, and refused.
func TestShortRSAKeysAreUnfit(t *testing.T) {
	t.Parallel()
	ek, ak := newKeys(t, "rsa2048")
	short := func(p *tpm2.TPMTPublic) {
		rsa, err := p.Parameters.RSADetail()
		if err != nil {
			t.Fatal(err)
		}
		n, err := p.Unique.RSA()
		if err != nil {
			t.Fatal(err)
		}
		rsa.KeyBits = 1024
		modulus := append([]byte(nil), n.Buffer[:128]...)
		modulus[0] |= 0x80
		modulus[127] |= 1
		p.Parameters = tpm2.NewTPMUPublicParms(tpm2.TPMAlgRSA, rsa)
		p.Unique = tpm2.NewTPMUPublicID(tpm2.TPMAlgRSA, &tpm2.TPM2BPublicKeyRSA{Buffer: modulus})
	}
	p := mustParse(t, edited(t, ak, short))
	if p.EncAlg() != "rsa1024" {
		t.Errorf("EncAlg = %s", p.EncAlg())
	}
	if err := p.CheckAK(); !errors.Is(err, tpm.ErrKeyUnfit) {
		t.Errorf("as AK: %v, want ErrKeyUnfit", err)
	}
	if err := mustParse(t, edited(t, ek, short)).CheckEK(); !errors.Is(err, tpm.ErrKeyUnfit) {
		t.Errorf("as EK: %v, want ErrKeyUnfit", err)
	}
}

func TestUnfitEKs(t *testing.T) {
	t.Parallel()
	for _, alg := range []string{"rsa2048", "ecc256"} {
		ek, ak := newKeys(t, alg)
		for _, c := range []struct {
			name   string
			area   []byte
			change func(*tpm2.TPMTPublic)
		}{
			{"not restricted", ek, func(p *tpm2.TPMTPublic) { p.ObjectAttributes.Restricted = false }},
			{"not fixedTPM", ek, func(p *tpm2.TPMTPublic) { p.ObjectAttributes.FixedTPM = false }},
			{"not fixedParent", ek, func(p *tpm2.TPMTPublic) { p.ObjectAttributes.FixedParent = false }},
			{"not decrypt", ek, func(p *tpm2.TPMTPublic) { p.ObjectAttributes.Decrypt = false }},
			{"sign as well", ek, func(p *tpm2.TPMTPublic) { p.ObjectAttributes.SignEncrypt = true }},
			{"SHA-1 name", ek, func(p *tpm2.TPMTPublic) {
				p.NameAlg, p.AuthPolicy = tpm2.TPMAlgSHA1, tpm2.TPM2BDigest{}
			}},
			{"no symmetric algorithm", ek, func(p *tpm2.TPMTPublic) {
				p.Parameters = withoutSymmetric(t, p.Parameters)
			}},
			{"signing key", ak, func(*tpm2.TPMTPublic) {}},
			{"signing key's scheme", ek, func(p *tpm2.TPMTPublic) { p.Parameters = withScheme(t, p.Parameters) }},
		} {
			if err := mustParse(t, edited(t, c.area, c.change)).CheckEK(); !errors.Is(err, tpm.ErrKeyUnfit) {
				t.Errorf("%s %s: %v, want ErrKeyUnfit", alg, c.name, err)
			}
		}
	}
}

func withoutSymmetric(t *testing.T, parms tpm2.TPMUPublicParms) tpm2.TPMUPublicParms {
	t.Helper()
	if rsa, err := parms.RSADetail(); err == nil {
		rsa.Symmetric = tpm2.TPMTSymDefObject{}
		return tpm2.NewTPMUPublicParms(tpm2.TPMAlgRSA, rsa)
	}
	ecc, err := parms.ECCDetail()
	if err != nil {
		t.Fatal(err)
	}
	ecc.Symmetric = tpm2.TPMTSymDefObject{}
	return tpm2.NewTPMUPublicParms(tpm2.TPMAlgECC, ecc)
}

func withScheme(t *testing.T, parms tpm2.TPMUPublicParms) tpm2.TPMUPublicParms {
	t.Helper()
	if rsa, err := parms.RSADetail(); err == nil {
		rsa.Scheme = tpm2.TPMTRSAScheme{Scheme: tpm2.TPMAlgRSASSA,
			Details: tpm2.NewTPMUAsymScheme(tpm2.TPMAlgRSASSA, &tpm2.TPMSSigSchemeRSASSA{HashAlg: tpm2.TPMAlgSHA256})}
		return tpm2.NewTPMUPublicParms(tpm2.TPMAlgRSA, rsa)
	}
	ecc, err := parms.ECCDetail()
	if err != nil {
		t.Fatal(err)
	}
	ecc.Scheme = tpm2.TPMTECCScheme{Scheme: tpm2.TPMAlgECDSA,
		Details: tpm2.NewTPMUAsymScheme(tpm2.TPMAlgECDSA, &tpm2.TPMSSigSchemeECDSA{HashAlg: tpm2.TPMAlgSHA256})}
	return tpm2.NewTPMUPublicParms(tpm2.TPMAlgECC, ecc)
}

// Variants of the TCG's templates: with a policy alone, with userWithAuth, for each key size.
func TestTCGTemplatesAreFitEKs(t *testing.T) {
	t.Parallel()
	for _, alg := range []string{"rsa2048", "rsa3072", "ecc256", "ecc384", "ecc521"} {
		t.Run(alg, func(t *testing.T) {
			t.Parallel()
			ek, _ := newKeys(t, alg)
			for name, change := range map[string]func(*tpm2.TPMTPublic){
				"low range":  func(*tpm2.TPMTPublic) {},
				"high range": func(p *tpm2.TPMTPublic) { p.ObjectAttributes.UserWithAuth = true },
				"no policy": func(p *tpm2.TPMTPublic) {
					p.ObjectAttributes.AdminWithPolicy, p.AuthPolicy = false, tpm2.TPM2BDigest{}
				},
			} {
				if err := mustParse(t, edited(t, ek, change)).CheckEK(); err != nil {
					t.Errorf("%s: %v", name, err)
				}
			}
		})
	}
}

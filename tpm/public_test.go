package tpm_test

import (
	"bytes"
	"encoding/binary"
	"testing"

	"github.com/google/go-tpm/tpm2"

	"keylime/internal/fleet"
	"keylime/tpm"
)

func TestPublicKeepsItsBytes(t *testing.T) {
	t.Parallel()
	a := newAttester(t, fleet.Model{Alg: "ecc384", Hash: tpm.SHA384})
	area := a.AKPublic()
	p := mustParse(t, area)
	clear(area) // the caller's, no more
	if !bytes.Equal(p.Bytes(), a.AKPublic()) {
		t.Error("Bytes differ from what was parsed")
	}
	if p.EncAlg() != "ecc384" || p.SignAlg() != "ecdsa" || p.SchemeHash() != tpm.SHA384 {
		t.Errorf("key is %s %s %v", p.EncAlg(), p.SignAlg(), p.SchemeHash())
	}
	if alg := tpm.Hash(binary.BigEndian.Uint16(p.Name())); alg != tpm.SHA384 || len(p.Name()) != 2+48 {
		t.Errorf("name %x", p.Name())
	}
}

// NT-03 and what else is no key that can be used here.
func TestMalformedPublicAreas(t *testing.T) {
	t.Parallel()
	rsaEK, rsaAK := newKeys(t, "rsa2048")
	_, eccAK := newKeys(t, "ecc256")
	const (
		typeAt, nameAlgAt, attributesAt, policyAt = 2, 4, 6, 10
		bitsAt                                    = 18 // of rsaAK
		exponentAt                                = 20
		curveAt                                   = 18 // of eccAK
	)
	set16 := func(area []byte, at int, v uint16) []byte {
		area = bytes.Clone(area)
		binary.BigEndian.PutUint16(area[at:], v)
		return area
	}
	flip := func(area []byte, at int, bits byte) []byte {
		area = bytes.Clone(area)
		area[at] ^= bits
		return area
	}
	for name, area := range map[string][]byte{
		"nothing":            nil,
		"size alone":         {0, 0},
		"size too small":     set16(rsaAK, 0, uint16(len(rsaAK)-3)),
		"size too large":     set16(rsaAK, 0, uint16(len(rsaAK)-1)),
		"trailing byte":      append(bytes.Clone(rsaAK), 0),
		"huge":               make([]byte, 70000),
		"keyed hash":         set16(rsaAK, typeAt, 0x0008),
		"symmetric":          set16(rsaAK, typeAt, 0x0025),
		"RSA called ECC":     set16(rsaAK, typeAt, 0x0023),
		"ECC called RSA":     set16(eccAK, typeAt, 0x0001),
		"unknown name hash":  set16(rsaAK, nameAlgAt, 0x0012),
		"no name hash":       set16(rsaAK, nameAlgAt, 0x0010),
		"reserved attribute": flip(rsaAK, attributesAt, 0x80),
		"policy of one byte": set16(rsaAK, policyAt, 1),
		"policy of 31 bytes": append(set16(rsaEK, policyAt, 31)[:43], rsaEK[44:]...),
		"512 bits":           set16(rsaAK, bitsAt, 512),
		"bits not of N":      set16(rsaAK, bitsAt, 3072),
		"exponent 3":         flip(rsaAK, exponentAt+3, 3),
		"even modulus":       flip(rsaAK, len(rsaAK)-1, 1),
		"short modulus":      flip(rsaAK, exponentAt+6, 0x80),
		"curve P-224":        set16(eccAK, curveAt, 0x0002),
		"curve SM2":          set16(eccAK, curveAt, 0x0020),
		"off the curve":      flip(eccAK, len(eccAK)-1, 1),
		"x of 31 bytes": edited(t, eccAK, func(p *tpm2.TPMTPublic) {
			point, err := p.Unique.ECC()
			if err != nil {
				t.Fatal(err)
			}
			point.X.Buffer = point.X.Buffer[1:]
		}),
	} {
		if _, err := tpm.ParsePublic(area); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
	for n := range rsaAK {
		if _, err := tpm.ParsePublic(rsaAK[:n]); err == nil {
			t.Errorf("cut to %d bytes: accepted", n)
		}
	}
}

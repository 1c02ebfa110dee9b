package tpm

import "fmt"

// Claims is what a quote says while nobody has verified who signed it. It serves to show a quote and to try policies
// out; what a machine is appraised by are VerifiedPCRs.
type Claims struct {
	Bank  Hash
	PCRs  map[int][]byte
	Nonce []byte // its qualifying data
	Clock Clock
}

// ReadClaims reads a quote without verifying its signature. Its structures must parse, and its PCR values must be those
// of its digest.
func ReadClaims(q Quote) (Claims, error) {
	att, err := parseQuoted(q.Attest)
	if err != nil {
		return Claims{}, fmt.Errorf("read quote: %w", err)
	}
	values, err := checkValues(att, q.PCRBlob)
	if err != nil {
		return Claims{}, fmt.Errorf("read quote: %w", err)
	}
	c := Claims{Bank: att.bank, PCRs: map[int][]byte{}, Nonce: att.extraData, Clock: att.clock}
	for _, i := range att.mask.PCRs() {
		c.PCRs[i], _ = values.PCR(i)
	}
	return c, nil
}

// ReadValues reads the PCR values of a blob, which nobody signed: they serve to show them, and to tell whether it is
// worth verifying the quote.
func ReadValues(blob []byte) (bank Hash, pcrs map[int][]byte, err error) {
	p, err := parsePCRBlob(blob)
	if err != nil {
		return 0, nil, err
	}
	pcrs, size := map[int][]byte{}, p.bank.Size()
	for n, i := range p.mask.PCRs() {
		pcrs[i] = p.values[n*size : (n+1)*size : (n+1)*size]
	}
	return p.bank, pcrs, nil
}

// ReadSelection reads the PCRs that a quote's TPMS_ATTEST covers and its clock, without verifying its signature.
func ReadSelection(attest []byte) (Mask, Clock, error) {
	att, err := parseQuoted(attest)
	if err != nil {
		return 0, Clock{}, err
	}
	return att.mask, att.clock, nil
}

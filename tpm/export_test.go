package tpm

// CheckParts parses the parts of a quote, for tests that have no key to verify it.
func CheckParts(q Quote) error {
	if _, err := parseQuoted(q.Attest); err != nil {
		return err
	}
	if _, err := parseSignature(q.Signature); err != nil {
		return err
	}
	_, err := parsePCRBlob(q.PCRBlob)
	return err
}

// ParseBlob parses a PCR blob into bank, mask and values.
func ParseBlob(b []byte) (Hash, Mask, [][]byte, error) {
	p, err := parsePCRBlob(b)
	if err != nil {
		return 0, 0, nil, err
	}
	var values [][]byte
	for v := p.values; len(v) > 0; v = v[p.bank.Size():] {
		values = append(values, v[:p.bank.Size()])
	}
	return p.bank, p.mask, values, nil
}

// The parsers of the signed parts, as yes or no.
func IsQuoted(b []byte) bool    { _, err := parseQuoted(b); return err == nil }
func IsCertified(b []byte) bool { _, err := parseCertified(b); return err == nil }
func IsSignature(b []byte) bool { _, err := parseSignature(b); return err == nil }

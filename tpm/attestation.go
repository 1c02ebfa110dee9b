package tpm

import "fmt"

// What a TPMS_ATTEST starts with and the types read here (part 2, TPM_GENERATED and TPM_ST).
const (
	generatedMagic = 0xFF544347
	typeCertify    = 0x8017
	typeQuote      = 0x8018
)

const (
	maxName      = 2 + maxDigest // nameAlg and digest; a handle is shorter
	maxExtraData = 2 + maxDigest // TPM2B_DATA is a TPMT_HA
	selectBytes  = 3             // bitmap of PCRs 0 to 23, the PC Client minimum
	clockSafe    = 1             // TPMI_YES_NO
)

// attestHeader is what every TPMS_ATTEST begins with.
type attestHeader struct {
	extraData []byte
	clock     Clock
}

// quoted is the TPMS_ATTEST of a quote.
type quoted struct {
	attestHeader
	bank   Hash // of the only selection
	mask   Mask
	digest []byte // over the selected values, ascending
}

// certified is the TPMS_ATTEST of a TPM2_Certify.
type certified struct {
	attestHeader
	name []byte // of the certified object
}

// readHeader reads up to the attested union and wants the given type in it.
func readHeader(r *reader, kind uint16) attestHeader {
	if magic := r.u32("magic"); r.err == nil && magic != generatedMagic {
		r.fail("magic 0x%08x, want 0x%08x", magic, uint32(generatedMagic))
	}
	if got := r.u16("type"); r.err == nil && got != kind {
		r.fail("type 0x%04x, want 0x%04x", got, kind)
	}
	// The signer's qualified name depends on its parents, which we don't know; the key itself is known.
	r.sized(maxName, "qualifiedSigner")
	h := attestHeader{extraData: r.sized(maxExtraData, "extraData")}
	h.clock.Clock = r.u64("clock")
	h.clock.ResetCount = r.u32("resetCount")
	h.clock.RestartCount = r.u32("restartCount")
	safe := r.u8("safe")
	if safe > clockSafe {
		r.fail("safe is %d, want 0 or 1", safe)
	}
	h.clock.Safe = safe == clockSafe
	r.u64("firmwareVersion")
	return h
}

func parseQuoted(attest []byte) (quoted, error) {
	r := &reader{rest: attest}
	q := quoted{attestHeader: readHeader(r, typeQuote)}
	if n := r.u32("PCR selection count"); r.err == nil && n != 1 {
		r.fail("%d PCR selections, want exactly one", n)
	}
	q.bank = readHash(r, "PCR selection hash")
	q.mask = readBitmap(r)
	q.digest = r.sized(maxDigest, "pcrDigest")
	if err := r.close(); err != nil {
		return quoted{}, fmt.Errorf("parse quote's TPMS_ATTEST: %w", err)
	}
	return q, nil
}

func parseCertified(attest []byte) (certified, error) {
	r := &reader{rest: attest}
	c := certified{attestHeader: readHeader(r, typeCertify)}
	c.name = r.sized(maxName, "certified name")
	r.sized(maxName, "certified qualifiedName")
	if err := r.close(); err != nil {
		return certified{}, fmt.Errorf("parse certification's TPMS_ATTEST: %w", err)
	}
	return c, nil
}

// readBitmap reads the size and the bitmap of a TPMS_PCR_SELECTION.
func readBitmap(r *reader) Mask {
	if n := r.u8("sizeofSelect"); r.err == nil && n != selectBytes {
		r.fail("sizeofSelect %d, want %d", n, selectBytes)
	}
	b := r.take(selectBytes, "pcrSelect")
	if b == nil {
		return 0
	}
	return Mask(b[0]) | Mask(b[1])<<8 | Mask(b[2])<<16
}

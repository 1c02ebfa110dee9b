package tpm

import (
	"fmt"
	"math/bits"
	"strconv"
	"strings"
)

// Mask is a set of PCRs; bit n stands for PCR n. Valid masks have no bit above 23.
type Mask uint32

// The PCRs that have a meaning of their own in Keylime.
const (
	PCRIma  = 10 // extended by the kernel's Integrity Measurement Architecture
	PCRData = 16 // reset before each quote and extended with the digest of the agent's transport key
	maxPCR  = 23
)

// MaskOf returns the set of the given PCRs, which must be in 0..23.
func MaskOf(pcrs ...int) Mask {
	var m Mask
	for _, p := range pcrs {
		m |= 1 << p
	}
	return m
}

// ParseMask reads the wire form "0x…" (the prefix is optional). Bits above 23 are an error.
func ParseMask(s string) (Mask, error) {
	digits := strings.TrimPrefix(s, "0x")
	if digits == "" || len(digits) > 8 {
		return 0, fmt.Errorf("PCR mask %q: want 0x and 1 to 8 hex digits", s)
	}
	v, err := strconv.ParseUint(digits, 16, 32)
	if err != nil {
		return 0, fmt.Errorf("PCR mask %q: want 0x and 1 to 8 hex digits", s)
	}
	if v>>(maxPCR+1) != 0 {
		return 0, fmt.Errorf("PCR mask %q: a TPM has PCRs 0 to %d", s, maxPCR)
	}
	return Mask(v), nil
}

// Has reports whether the set holds the PCR.
func (m Mask) Has(pcr int) bool { return pcr >= 0 && pcr <= maxPCR && m&(1<<pcr) != 0 }

// With returns the set with the PCR added.
func (m Mask) With(pcr int) Mask { return m | 1<<pcr }

// Count is the number of PCRs in the set.
func (m Mask) Count() int { return bits.OnesCount32(uint32(m)) }

// PCRs lists the set in ascending order.
func (m Mask) PCRs() []int {
	list := make([]int, 0, m.Count())
	for p := 0; p <= maxPCR; p++ {
		if m.Has(p) {
			list = append(list, p)
		}
	}
	return list
}

// String is the wire form, "0x" and lower-case hex without leading zeros.
func (m Mask) String() string { return fmt.Sprintf("0x%x", uint32(m)) }

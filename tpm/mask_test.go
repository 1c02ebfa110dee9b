package tpm_test

import (
	"fmt"
	"slices"
	"testing"

	"keylime/tpm"
)

// NT-66: what is no mask.
func TestParseMaskIsStrict(t *testing.T) {
	t.Parallel()
	for _, text := range []string{
		"", "0x", "zz", "0xzz", "0x1000000", "0x100000000", "0x10000000000000000", "18446744073709551616",
		"-1", "+1", "0x-1", "1_0", "0X400", " 0x400", "0x400 ", "0x0x400", "４",
	} {
		if m, err := tpm.ParseMask(text); err == nil {
			t.Errorf("%q: parsed as %v", text, m)
		}
	}
}

func TestMaskRoundTrip(t *testing.T) {
	t.Parallel()
	for text, pcrs := range map[string][]int{
		"0x0":      {},
		"0x400":    {10},
		"0x10400":  {10, 16},
		"0x408001": {0, 15, 22},
		"0x800000": {23},
	} {
		m, err := tpm.ParseMask(text)
		if err != nil {
			t.Errorf("%s: %v", text, err)
			continue
		}
		if m.String() != text || !slices.Equal(m.PCRs(), pcrs) || m.Count() != len(pcrs) || m != tpm.MaskOf(pcrs...) {
			t.Errorf("%s: %v with PCRs %v", text, m, m.PCRs())
		}
	}
	if m, err := tpm.ParseMask("400"); err != nil || m != tpm.MaskOf(10) {
		t.Errorf("without prefix: %v, %v", m, err)
	}
	m := tpm.MaskOf(3).With(7)
	for _, pcr := range []int{-1, 0, 24, 31, 32, 64} {
		if m.Has(pcr) {
			t.Errorf("%v has PCR %d", m, pcr)
		}
	}
}

func TestHashNames(t *testing.T) {
	t.Parallel()
	for name, size := range map[string]int{"sha1": 20, "sha256": 32, "sha384": 48, "sha512": 64} {
		h, err := tpm.ParseHash(name)
		if err != nil || h.String() != name || h.Size() != size || !h.Valid() || h.Crypto().Size() != size {
			t.Errorf("%s: %v, %v", name, h, err)
		}
	}
	for _, name := range []string{"", "SHA256", "sha-256", "sm3_256", "sha3-256"} {
		if _, err := tpm.ParseHash(name); err == nil {
			t.Errorf("%q: accepted", name)
		}
	}
	if h := tpm.Hash(0x12); h.Valid() || h.Size() != 0 || h.String() != "alg-0x0012" {
		t.Errorf("SM3: %v, %d bytes", h, h.Size())
	}
}

func ExampleMask() {
	m := tpm.MaskOf(tpm.PCRIma)
	fmt.Println(m, m.With(tpm.PCRData).PCRs())
	// Output: 0x400 [10 16]
}

package snp

import (
	"encoding/hex"
	"fmt"
	"slices"
)

// Product is a line of processors, by the name that AMD's certificate service gives it.
type Product string

// The lines that have SEV-SNP.
const (
	Milan Product = "Milan"
	Genoa Product = "Genoa" // Bergamo and Siena too
	Turin Product = "Turin"
)

// Products lists them.
func Products() []Product { return []Product{Milan, Genoa, Turin} }

// ParseProduct reads a product's name.
func ParseProduct(name string) (Product, error) {
	if p := Product(name); slices.Contains(Products(), p) {
		return p, nil
	}
	return "", fmt.Errorf("no product %q with SEV-SNP; there are %v", name, Products())
}

// productOf tells the line from CPUID (57230, "Product Name").
func productOf(family, model byte) (Product, bool) {
	switch {
	case family == 0x19 && model <= 0x0F:
		return Milan, true
	case family == 0x19 && (0x10 <= model && model <= 0x1F || 0xA0 <= model && model <= 0xAF):
		return Genoa, true
	case family == 0x1A && model <= 0x11:
		return Turin, true
	}
	return "", false
}

// tcb is the version of the firmware's parts (56860, TCB_VERSION).
type tcb struct {
	fmc                             uint8 // Turin alone has it
	bootloader, tee, snp, microcode uint8
}

func (p Product) splitTCB(b []byte) tcb {
	if p == Turin {
		return tcb{b[0], b[1], b[2], b[3], b[7]}
	}
	return tcb{0, b[0], b[1], b[6], b[7]}
}

// hardwareID is the chip id as the certificate service knows it.
func (p Product) hardwareID(chipID []byte) []byte { return chipID[:p.hardwareIDSize()] }

func (p Product) hardwareIDSize() int {
	if p == Turin {
		return 8
	}
	return 64
}

// VCEKName names the certificate that a report's signature is verified with: CHIP_ID and REPORTED_TCB in hex.
func (r Report) VCEKName() string {
	return hex.EncodeToString(r.chipID()) + "-" + hex.EncodeToString(r.reportedTCB())
}

// VCEKPath is where AMD's certificate service has that certificate: path and query (57230, "Get VCEK").
func (r Report) VCEKPath(p Product) string {
	t := p.splitTCB(r.reportedTCB())
	fmc := ""
	if p == Turin {
		fmc = fmt.Sprintf("fmcSPL=%02d&", t.fmc)
	}
	return fmt.Sprintf("/vcek/v1/%s/%x?%sblSPL=%02d&teeSPL=%02d&snpSPL=%02d&ucodeSPL=%02d",
		p, p.hardwareID(r.chipID()), fmc, t.bootloader, t.tee, t.snp, t.microcode)
}

package vcek

import (
	"fmt"
	"os"
	"strings"

	"keylime/internal/snp"
)

// Chains reads whose processors are trusted: a file with ASK and ARK for each, as PRODUCT=FILE. Without any they are those
// that AMD publishes.
func Chains(files []string) (chains []snp.Chain, err error) {
	if len(files) == 0 {
		for _, product := range snp.Products() {
			chain, err := snp.AMD(product)
			if err != nil {
				return nil, err
			}
			chains = append(chains, chain)
		}
		return chains, nil
	}
	for _, file := range files {
		name, path, ok := strings.Cut(file, "=")
		product, err := snp.ParseProduct(name)
		if !ok || err != nil {
			return nil, fmt.Errorf("%q: want PRODUCT=FILE with one of the products %v", file, snp.Products())
		}
		text, err := os.ReadFile(path)
		if err != nil {
			return nil, err
		}
		chain, err := snp.ParseChain(product, text)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", path, err)
		}
		chains = append(chains, chain)
	}
	return chains, nil
}

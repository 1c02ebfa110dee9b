package policytool

import (
	"fmt"

	"github.com/rs/zerolog"

	"keylime/internal/policytool/collect"
)

// claim is the digest algorithm that one input of a policy goes by. The digests of a file are compared whatever their
// algorithm, so that a policy with several accepts what it should; but a tree hashed with another algorithm than the
// kernel uses would accept nothing.
type claim struct {
	source string
	alg    collect.Algorithm
	// either: told from digests of 32 bytes, which SHA-256 and SM3 have alike. alg is SHA256.
	either bool
	// unknown: the input has digests of no known algorithm.
	unknown bool
}

// claimOf tells the algorithm of an input from the length of its first digest; an input without digests makes no claim.
func claimOf(source string, size int) claim {
	if size == 0 {
		return claim{source: source}
	}
	for _, alg := range collect.Algorithms() {
		if alg.Size() == size {
			return claim{source: source, alg: alg, either: alg == collect.SHA256}
		}
	}
	return claim{source: source, unknown: true}
}

// chooseAlgorithm returns the algorithm that all claims agree on, SHA-256 without any. Claims come in the order of their
// weight. Each that contradicts is logged; the error says what to do.
func chooseAlgorithm(claims []claim, log zerolog.Logger) (collect.Algorithm, error) {
	var chosen claim
	wrong := ""
	for _, c := range claims {
		switch {
		case c.unknown:
			log.Warn().Msg("Invalid digest algorithm found in the " + c.source)
			wrong = c.source
		case c.alg == "":
		case chosen.alg == "":
			chosen = c
			log.Debug().Msgf("Using digest algorithm '%s' obtained from the %s", c.alg, c.source)
		case c.alg == chosen.alg:
			chosen.either = chosen.either && c.either
		case chosen.either && c.alg == collect.SM3:
			chosen = c
			log.Debug().Msgf("Using digest algorithm '%s' obtained from the %s", c.alg, c.source)
		case c.either && chosen.alg == collect.SM3:
		default:
			log.Warn().Msgf("The digest algorithm in the %s does not match the previously set '%s' algorithm", c.source, chosen.alg)
			wrong = c.source
		}
	}
	switch {
	case wrong != "":
		return "", fmt.Errorf("the %s has digests of another algorithm than the rest, or of none that is known (%s): "+
			"leave it out, or make it again with the algorithm of the others", wrong, collect.AlgorithmNames())
	case chosen.alg == "":
		log.Debug().Msgf("Using default digest algorithm %s", collect.SHA256)
		return collect.SHA256, nil
	}
	return chosen.alg, nil
}

package registrar

import (
	"bytes"
	"crypto/rand"
	"io"
	"strings"
	"testing"
)

// NT-26 for the registrar's challenges: all differ, and no character is favoured.
func TestChallengesAreUniform(t *testing.T) {
	t.Parallel()
	const draws = 10_000
	seen := make(map[string]bool, draws)
	counts := map[rune]int{}
	for range draws {
		c, err := newChallenge(rand.Reader)
		if err != nil || len(c) != challengeLength || seen[c] {
			t.Fatalf("challenge %q, %v", c, err)
		}
		seen[c] = true
		for _, r := range c {
			counts[r]++
		}
	}
	const expected = float64(draws*challengeLength) / float64(len(challengeAlphabet))
	chi := 0.0
	for _, r := range challengeAlphabet {
		d := float64(counts[r]) - expected
		chi += d * d / expected
	}
	// 61 degrees of freedom: one test in a million exceeds 125. Bytes modulo 62 would give thousands.
	if len(counts) != len(challengeAlphabet) || chi > 125 {
		t.Errorf("%d characters, chi-squared %.0f", len(counts), chi)
	}
}

func TestChallengePassesOverBytesThatWouldFavourSome(t *testing.T) {
	t.Parallel()
	high := bytes.Repeat([]byte{248, 255}, challengeLength/2)
	c, err := newChallenge(io.MultiReader(bytes.NewReader(high), bytes.NewReader(make([]byte, challengeLength))))
	if err != nil || c != strings.Repeat("A", challengeLength) {
		t.Errorf("challenge %q, %v", c, err)
	}
	if _, err := newChallenge(bytes.NewReader(high)); err == nil {
		t.Error("a challenge without randomness")
	}
}

package differential

import (
	"os"
	"strconv"
	"testing"
	"time"
)

// TestVerdicts compares random cases. KEYLIME_SEED repeats those of another run.
func TestVerdicts(t *testing.T) {
	p := newPeer(t)
	seed := uint64(time.Now().UnixNano()) % 1_000_000
	if given := os.Getenv("KEYLIME_SEED"); given != "" {
		var err error
		if seed, err = strconv.ParseUint(given, 10, 32); err != nil {
			t.Fatalf("KEYLIME_SEED: %v", err)
		}
	}
	t.Logf("KEYLIME_SEED=%d", seed)
	for _, part := range []struct {
		name    string
		count   int
		compare func(t *testing.T, p *peer, seed uint64, count int)
	}{
		{"lives", 1000, compareLives},
		{"policies", 600, comparePolicies},
		{"signed policies", 100, compareSigned},
		{"excludes", 600, compareExcludes},
		{"severities", 100, compareSeverities},
		{"boots", 100, compareBoots},
		{"recorded boots", 0, compareRecordedBoots},
		{"deviations", 0, compareDeviations},
	} {
		t.Run(part.name, func(t *testing.T) { part.compare(t, p, seed, part.count) })
	}
}

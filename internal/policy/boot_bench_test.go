package policy

import (
	"crypto/sha256"
	"testing"
	"time"

	"keylime/internal/fleet"
	"keylime/internal/uefi"
	"keylime/tpm"
)

// BenchmarkJudgeBoot parses a log of a whole boot, replays it and has the engine example judge it. The reference is the
// hashing alone: the log's bytes once, for its payloads, and one extend for each event in the bank.
func BenchmarkJudgeBoot(b *testing.B) {
	chain := fleet.NewBootChain("1")
	for i := range 400 { // as many as today's dbx
		chain.Forbidden = append(chain.Forbidden, string(rune('a'+i%26))+time.Duration(i).String())
	}
	raw := chain.Log(tpm.SHA256).Bytes()
	boot := compiledBoot(b, BootExample, chain.Reference())
	log, err := uefi.Parse(raw)
	if err != nil {
		b.Fatal(err)
	}
	judge := func() {
		log, err := uefi.Parse(raw)
		if err != nil {
			b.Fatal(err)
		}
		p, err := uefi.Believe(log, tpm.SHA256)
		if err != nil {
			b.Fatal(err)
		}
		if reason := boot.Judge(p); reason != "" {
			b.Fatal(reason)
		}
	}
	hash := func() {
		sum := sha256.Sum256(raw)
		var pair [2 * sha256.Size]byte
		copy(pair[:], sum[:])
		for range log.Events() {
			sum = sha256.Sum256(pair[:])
			copy(pair[:], sum[:])
		}
	}
	var judged, hashed time.Duration
	for b.Loop() {
		start := time.Now()
		judge()
		middle := time.Now()
		hash()
		judged, hashed = judged+middle.Sub(start), hashed+time.Since(middle)
	}
	b.SetBytes(int64(len(raw)))
	b.ReportMetric(float64(judged)/float64(hashed), "x-hashing")
	b.ReportMetric(float64(judged.Microseconds())/float64(b.N), "µs/log")
}

// BenchmarkCompileBoot compiles a reference state with a dbx of today's size.
func BenchmarkCompileBoot(b *testing.B) {
	chain := fleet.NewBootChain("1")
	for i := range 400 {
		chain.Forbidden = append(chain.Forbidden, time.Duration(i).String())
	}
	text := []byte(chain.Reference())
	b.SetBytes(int64(len(text)))
	for b.Loop() {
		if _, err := CompileBoot(BootExample, text); err != nil {
			b.Fatal(err)
		}
	}
}

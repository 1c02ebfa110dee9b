package agent

import (
	"io"
	"os"
	"path/filepath"
	"testing"
	"time"

	"keylime/internal/api"
)

// BenchmarkEvidence sends a list of 100,000 entries, and for reference copies the same file: the ratio is what finding
// the entry, checking UTF-8 and escaping cost.
func BenchmarkEvidence(b *testing.B) {
	name := filepath.Join(b.TempDir(), "list")
	writeList(b, name, 100_000)
	file, err := os.Open(name)
	if err != nil {
		b.Fatal(err)
	}
	defer file.Close()
	info, err := file.Stat()
	if err != nil {
		b.Fatal(err)
	}
	b.SetBytes(info.Size())
	b.ReportAllocs()
	copying := func() {
		section := io.NewSectionReader(file, 0, info.Size())
		if _, err := io.CopyBuffer(struct{ io.Writer }{io.Discard}, struct{ io.Reader }{section}, make([]byte, readChunk)); err != nil {
			b.Fatal(err)
		}
	}
	list := newMeasurementList(file)
	var reference time.Duration
	for b.Loop() {
		window, err := list.from(0)
		if err != nil {
			b.Fatal(err)
		}
		if err := (evidence{results: api.QuoteResults{}, ima: window.text}).write(io.Discard); err != nil {
			b.Fatal(err)
		}
		b.StopTimer()
		start := time.Now()
		copying()
		reference += time.Since(start)
		b.StartTimer()
	}
	b.ReportMetric(float64(b.Elapsed())/float64(reference), "x-copy")
}

// BenchmarkNextEntry asks a list of 100,000 entries for those after the last one, as each poll does.
func BenchmarkNextEntry(b *testing.B) {
	name := filepath.Join(b.TempDir(), "list")
	writeList(b, name, 100_000)
	file, err := os.Open(name)
	if err != nil {
		b.Fatal(err)
	}
	defer file.Close()
	list := newMeasurementList(file)
	if _, err := list.from(0); err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	var reference time.Duration
	buf := make([]byte, 1)
	for b.Loop() {
		if _, err := list.from(100_000); err != nil {
			b.Fatal(err)
		}
		b.StopTimer()
		start := time.Now()
		if _, err := file.ReadAt(buf, 0); err != nil {
			b.Fatal(err)
		}
		reference += time.Since(start)
		b.StartTimer()
	}
	b.ReportMetric(float64(b.Elapsed())/float64(reference), "x-read")
}

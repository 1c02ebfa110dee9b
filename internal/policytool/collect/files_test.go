package collect

import (
	"bytes"
	"encoding/hex"
	"fmt"
	"math/rand/v2"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/iotest"
)

// listed shows a collection as lines "path digest,digest".
func listed(f *Files) string {
	var lines []string
	for path, digests := range f.Sorted() {
		var hexes []string
		for _, d := range digests {
			hexes = append(hexes, hex.EncodeToString(d[:1]))
		}
		lines = append(lines, path+" "+strings.Join(hexes, ","))
	}
	return strings.Join(lines, "\n")
}

// digestOf is a digest that begins with a byte.
func digestOf(b byte) []byte { return append([]byte{b}, make([]byte, 31)...) }

func TestFilesAreSortedAndDistinct(t *testing.T) {
	t.Parallel()
	f := NewFiles()
	for _, add := range []struct {
		path   string
		digest byte
	}{
		{"/b/x", 2}, {"/b/x", 1}, {"/b/x", 2}, {"/a", 3}, {"/b.d/x", 4}, {"/b", 5}, {"/b/", 6}, {"boot_aggregate", 7},
		{"/with a space", 8}, {"/with_a_space", 9}, {"", 10},
	} {
		f.Add(add.path, digestOf(add.digest))
	}
	const want = " 0a\n/a 03\n/b 05\n/b.d/x 04\n/b/ 06\n/b/x 01,02\n/with_a_space 08,09\nboot_aggregate 07"
	if got := listed(f); got != want {
		t.Errorf("got:\n%s\nwant:\n%s", got, want)
	}
}

// TestOrderIsThatOfWholePaths: paths are stored in two parts, which must not show.
func TestOrderIsThatOfWholePaths(t *testing.T) {
	t.Parallel()
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 0))
	f := NewFiles()
	var want []string
	for range 3000 {
		var path strings.Builder
		for range random.IntN(7) {
			path.WriteByte("/a.b"[random.IntN(4)])
		}
		want = append(want, path.String())
		f.Add(path.String(), digestOf(1))
	}
	slices.Sort(want)
	want = slices.Compact(want)
	var got []string
	for path := range f.Sorted() {
		got = append(got, path)
	}
	if !slices.Equal(got, want) {
		t.Errorf("got  %q\nwant %q", got, want)
	}
}

func TestWhatNoPolicyHoldsIsLeftOut(t *testing.T) {
	t.Parallel()
	f := NewFiles()
	f.Add("/md5", make([]byte, 16))
	f.Add("/latin-\xe9", make([]byte, 32))
	f.Add("/long"+strings.Repeat("x", 4096), make([]byte, 32))
	f.Add("/wide", make([]byte, 65))
	f.Add("/kept", digestOf(1))
	if got := listed(f); got != "/kept 01" || f.Dropped() != 4 {
		t.Errorf("holds %q and dropped %d", got, f.Dropped())
	}
}

func TestHasherHashesWithEachAlgorithm(t *testing.T) {
	t.Parallel()
	digests := map[Algorithm]string{ // of "abc", as each standard gives it
		SHA1:   "a9993e364706816aba3e25717850c26c9cd0d89d",
		SHA256: "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad",
		SHA384: "cb00753f45a35e8bb5a03d699ac65007272c32ab0eded1631a8b605a43ff5bed8086072ba1e7cc2358baeca134c825a7",
		SHA512: "ddaf35a193617abacc417349ae20413112e6fa4e89a97ea20a9eeee64b55d39a2192992a274fc1a836ba3c23a3feebbd454d4423643ce80e2a9ac94fa54ca49f",
		SM3:    "66c7f0f462eeedd9d1f2d46bdc10e4e24167c4875cf2f7a2297da02b8f4ba8e0",
	}
	for _, alg := range Algorithms() {
		f := NewFiles()
		if err := f.Hasher(alg).Add("/abc", strings.NewReader("abc")); err != nil {
			t.Fatal(err)
		}
		for _, got := range f.Sorted() {
			if hex.EncodeToString(got[0]) != digests[alg] || len(got[0]) != alg.Size() {
				t.Errorf("%s of abc: %x", alg, got)
			}
		}
		if p := f.Progress(); p.Files != 1 || p.Bytes != 3 {
			t.Errorf("%s: progress %+v", alg, p)
		}
	}
}

func TestFailedReadAddsNothing(t *testing.T) {
	t.Parallel()
	f := NewFiles()
	h := f.Hasher(SHA256)
	if err := h.Add("/x", iotest.TimeoutReader(iotest.OneByteReader(strings.NewReader("abc")))); err == nil {
		t.Error("no error")
	}
	if listed(f) != "" {
		t.Errorf("added %q", listed(f))
	}
	if err := h.Add("/y", strings.NewReader("")); err != nil {
		t.Fatal(err)
	}
	if got := listed(f); got != "/y e3" {
		t.Errorf("after a failure the hash is not fresh: %q", got)
	}
}

func TestManyAddAtOnce(t *testing.T) {
	t.Parallel()
	f := NewFiles()
	var all sync.WaitGroup
	for worker := range 8 {
		all.Go(func() {
			for i := range 1000 {
				f.Add(fmt.Sprintf("/d%d/f%d", i%10, i), digestOf(byte(worker)))
			}
		})
	}
	all.Wait()
	paths := 0
	for path, digests := range f.Sorted() {
		if paths++; len(digests) != 8 {
			t.Fatalf("%s has %d digests", path, len(digests))
		}
	}
	if paths != 1000 {
		t.Errorf("%d paths", paths)
	}
}

// BenchmarkMillionFiles reports what a million files take: memory, beside that of their paths and digests alone.
func BenchmarkMillionFiles(b *testing.B) {
	const files = 1_000_000
	digest := bytes.Repeat([]byte{7}, 32)
	for b.Loop() {
		var before, after runtime.MemStats
		runtime.GC()
		runtime.ReadMemStats(&before)
		f, raw := NewFiles(), 0
		for i := range files {
			path := fmt.Sprintf("/usr/lib/modules/6.12.0-%d/kernel/drivers/net/driver%d.ko.xz", i/5000, i)
			raw += len(path) + len(digest)
			f.Add(path, digest)
		}
		runtime.GC()
		runtime.ReadMemStats(&after)
		held := float64(after.HeapAlloc - before.HeapAlloc)
		b.ReportMetric(held/1e6, "MB")
		b.ReportMetric(held/float64(raw), "x-of-paths-and-digests")
		runtime.KeepAlive(f)
	}
}

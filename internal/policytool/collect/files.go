package collect

import (
	"bytes"
	"cmp"
	"iter"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"unicode/utf8"
)

// Files maps paths to the digests that the files may have. Its methods may be called from several goroutines at once.
//
// A million files take about 80 MB: the directory of a path is stored once, and its last part beside the digest in large
// blocks that hold no pointers.
type Files struct {
	progress

	mu      sync.Mutex
	dirs    map[string]uint32 // index into names of directories
	names   []string          // of directories, with the slash
	blocks  [][]byte
	entries []entry
	dropped int
}

// entry is one digest of one path: the last part of the path and the digest lie behind each other in a block.
type entry struct {
	dir    uint32
	at     uint32 // block and offset
	name   uint16
	digest uint8
}

const (
	blockBits = 20
	blockSize = 1 << blockBits
	maxBlocks = 1 << (32 - blockBits) // 4 GB

	maxName   = 4096 // PATH_MAX
	minDigest = 20
	maxDigest = 64
)

// NewFiles returns an empty collection.
func NewFiles() *Files { return &Files{dirs: map[string]uint32{}} }

// Add states that the file at path may have the digest. The path is that on the attested machine, and is stored as the
// kernel prints it: with underscores for spaces.
//
// What no policy can hold is counted and left out: names that are not UTF-8 or longer than any path, and digests that
// are shorter than SHA-1's or longer than SHA-512's.
func (f *Files) Add(path string, digest []byte) {
	if strings.Contains(path, " ") {
		path = strings.ReplaceAll(path, " ", "_")
	}
	dir, name := split(path)
	f.mu.Lock()
	defer f.mu.Unlock()
	if len(path) > maxName || !utf8.ValidString(path) || len(digest) < minDigest || len(digest) > maxDigest || len(f.blocks) == maxBlocks {
		f.dropped++
		return
	}
	at := f.store(name, digest)
	f.entries = append(f.entries, entry{f.directory(dir), at, uint16(len(name)), uint8(len(digest))})
	f.progress.files.Add(1)
}

// split cuts a path after its last slash.
func split(path string) (dir, name string) {
	i := strings.LastIndexByte(path, '/') + 1
	return path[:i], path[i:]
}

func (f *Files) directory(dir string) uint32 {
	i, known := f.dirs[dir]
	if !known {
		i = uint32(len(f.names))
		dir = strings.Clone(dir)
		f.names = append(f.names, dir)
		f.dirs[dir] = i
	}
	return i
}

// store appends to the last block, or to a new one when it has no room, and returns where.
func (f *Files) store(name string, digest []byte) uint32 {
	last := len(f.blocks) - 1
	if last < 0 || len(f.blocks[last])+len(name)+len(digest) > blockSize {
		f.blocks = append(f.blocks, make([]byte, 0, blockSize))
		last++
	}
	block := f.blocks[last]
	at := uint32(last)<<blockBits | uint32(len(block))
	f.blocks[last] = append(append(block, name...), digest...)
	return at
}

// Dropped is the number of files left out because no policy can hold their name or digest.
func (f *Files) Dropped() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.dropped
}

// Sorted yields each path once, in byte order, with its digests, distinct and in byte order. The digests are valid until
// the next path. It must not run at the same time as Add.
func (f *Files) Sorted() iter.Seq2[string, [][]byte] {
	return func(yield func(string, [][]byte) bool) {
		slices.SortFunc(f.entries, func(a, b entry) int {
			return cmp.Or(f.comparePaths(a, b), bytes.Compare(f.digest(a), f.digest(b)))
		})
		var digests [][]byte
		for i, e := range f.entries {
			digest := f.digest(e)
			if len(digests) == 0 || !bytes.Equal(digests[len(digests)-1], digest) {
				digests = append(digests, digest)
			}
			if i+1 < len(f.entries) && f.comparePaths(e, f.entries[i+1]) == 0 {
				continue
			}
			if !yield(f.names[e.dir]+string(f.name(e)), digests) {
				return
			}
			digests = digests[:0]
		}
	}
}

func (f *Files) name(e entry) []byte {
	block, at := f.blocks[e.at>>blockBits], e.at&(blockSize-1)
	return block[at : at+uint32(e.name)]
}

func (f *Files) digest(e entry) []byte {
	block, at := f.blocks[e.at>>blockBits], e.at&(blockSize-1)+uint32(e.name)
	return block[at : at+uint32(e.digest)]
}

// comparePaths compares directory and name as one string.
func (f *Files) comparePaths(a, b entry) int {
	if a.dir == b.dir {
		return bytes.Compare(f.name(a), f.name(b))
	}
	dirA, dirB := f.names[a.dir], f.names[b.dir]
	n := min(len(dirA), len(dirB))
	if c := strings.Compare(dirA[:n], dirB[:n]); c != 0 {
		return c
	}
	// One directory begins with the other: what is left of it stands against the other's name.
	if len(dirA) > n {
		return -compareJoined(f.name(b), dirA[n:], f.name(a))
	}
	return compareJoined(f.name(a), dirB[n:], f.name(b))
}

// compareJoined compares a name with the concatenation of a rest of a directory and a name.
func compareJoined(name []byte, dir string, other []byte) int {
	n := min(len(name), len(dir))
	if c := strings.Compare(string(name[:n]), dir[:n]); c != 0 || n < len(dir) {
		return cmp.Or(c, -1)
	}
	return bytes.Compare(name[n:], other)
}

// progress counts what has been done.
type progress struct {
	files, bytes, expected atomic.Int64
}

// Progress is how far the collection is.
type Progress struct {
	Files    int64 // added
	Bytes    int64 // read
	Expected int64 // bytes to read in all, as far as it is known; 0 when nothing is known
}

// Expect adds to the bytes that will be read. A source that learns its size piece by piece calls it for each.
func (p *progress) Expect(bytes int64) { p.expected.Add(max(bytes, 0)) }

// Done adds to the bytes that have been read. A Hasher does it for what it hashes.
func (p *progress) Done(bytes int64) { p.bytes.Add(bytes) }

// Progress tells how far the collection is.
func (p *progress) Progress() Progress {
	return Progress{Files: p.files.Load(), Bytes: p.bytes.Load(), Expected: p.expected.Load()}
}

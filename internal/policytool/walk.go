package policytool

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"os"
	"path"
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"

	"keylime/internal/policytool/collect"
)

// walk visits a tree with several goroutines.
type walk struct {
	tree *tree
	ctx  context.Context
	root *os.Root
	skip map[string]bool

	mu      sync.Mutex
	wake    sync.Cond
	pending []batch
	busy    int // goroutines that may yet add to pending

	unreadable, foreign atomic.Int64
}

// batch is work for one goroutine: a directory to read, or some of a large directory's files.
type batch struct {
	dir   string // below the root, slashes, "." for the root
	names []string
}

// visitor does what is to be done with a regular file. dir is open; path is that below the root.
type visitor func(dir *os.File, name, path string)

// batchSize is the number of directory entries read at a time. A large directory is shared among goroutines in batches.
const batchSize = 256

// all visits every file. Each goroutine has a visitor of its own.
func (w *walk) all(goroutines int, visitors func() visitor) {
	w.wake.L = &w.mu
	w.pending = []batch{{dir: "."}}
	var group sync.WaitGroup
	for range goroutines {
		group.Go(func() {
			visit := visitors()
			for b, ok := w.next(); ok; b, ok = w.next() {
				w.run(b, visit)
				w.done()
			}
		})
	}
	group.Wait()
}

// next takes the last batch, so that the walk goes down before it goes on, and few directories wait at a time. False
// means that nothing is left and nobody can add more.
func (w *walk) next() (batch, bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for len(w.pending) == 0 && w.busy > 0 {
		w.wake.Wait()
	}
	last := len(w.pending) - 1
	if last < 0 || w.ctx.Err() != nil {
		return batch{}, false
	}
	b := w.pending[last]
	w.pending = w.pending[:last]
	w.busy++
	return b, true
}

func (w *walk) done() {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.busy--; w.busy == 0 {
		w.wake.Broadcast()
	}
}

// add queues a batch, unless enough wait already: then the caller does it itself, so that a directory of a million
// files is not held in memory.
func (w *walk) add(b batch) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	const enough = 64
	if len(b.names) > 0 && len(w.pending) >= enough {
		return false
	}
	w.pending = append(w.pending, b)
	w.wake.Signal()
	return true
}

func (w *walk) run(b batch, visit visitor) {
	dir, err := w.root.Open(b.dir) // no link leads it out of the root
	if err != nil {
		w.leaveOut(b.dir, err)
		return
	}
	defer dir.Close()
	if b.names != nil {
		w.visit(dir, b, visit)
		return
	}
	list, err := openAt(dir, ".", unix.O_DIRECTORY)
	if err != nil {
		w.leaveOut(b.dir, err)
		return
	}
	entries := os.NewFile(uintptr(list), b.dir) // unlike dir, it asks for no more than names and types
	defer entries.Close()
	for first := true; w.ctx.Err() == nil; first = false {
		some, err := entries.ReadDir(batchSize)
		files := batch{dir: b.dir}
		for _, e := range some {
			w.sort(e, &files)
		}
		// The first files of a directory are visited here, where it is open.
		if len(files.names) > 0 && (first || !w.add(files)) {
			w.visit(dir, files, visit)
		}
		if err != nil && err != io.EOF {
			w.leaveOut(b.dir, err)
		}
		if err != nil {
			return
		}
	}
}

// openAt opens a name in a directory for reading, but follows no link and waits for no writer of a pipe.
func openAt(dir *os.File, name string, flags int) (fd int, err error) {
	for {
		fd, err = unix.Openat(int(dir.Fd()), name, flags|unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
		if err != unix.EINTR {
			return fd, err
		}
	}
}

// sort queues a directory, and adds a regular file to the batch of its directory's files. All else is left out.
func (w *walk) sort(e fs.DirEntry, files *batch) {
	switch {
	case e.IsDir():
		sub := path.Join(files.dir, e.Name())
		if !w.skip["/"+sub] {
			w.add(batch{dir: sub})
		}
	case e.Type().IsRegular():
		files.names = append(files.names, e.Name())
	}
}

func (w *walk) visit(dir *os.File, b batch, visit visitor) {
	for _, name := range b.names {
		if w.ctx.Err() != nil {
			return
		}
		visit(dir, name, path.Join(b.dir, name))
	}
}

// size visits files to learn what there is to read.
func (w *walk) size(into *collect.Files) visitor {
	return func(dir *os.File, name, _ string) {
		var stat unix.Stat_t
		if err := unix.Fstatat(int(dir.Fd()), name, &stat, unix.AT_SYMLINK_NOFOLLOW); err == nil && w.ours(&stat) {
			into.Expect(stat.Size)
		}
	}
}

// hash visits files to hash them. What is hashed is decided on the opened file: the name may have come to mean another.
func (w *walk) hash(h *collect.Hasher) visitor {
	var f openFile
	return func(dir *os.File, name, path string) {
		fd, err := openAt(dir, name, 0)
		if err != nil {
			w.leaveOut(path, err)
			return
		}
		defer unix.Close(fd)
		var stat unix.Stat_t
		err = unix.Fstat(fd, &stat)
		switch {
		case err != nil:
			w.leaveOut(path, err)
		case stat.Mode&unix.S_IFMT != unix.S_IFREG:
		case !w.ours(&stat):
			w.foreign.Add(1)
		default:
			f = openFile{fd, stat.Size}
			if err := h.Add("/"+path, &f); err != nil {
				w.leaveOut(path, err)
			}
		}
	}
}

// openFile reads a file by its descriptor. That costs a third of the system calls that os.File makes for a small file.
type openFile struct {
	fd   int
	left int64 // of the size that it had when opened
}

// Read reads up to the end of the file; where its size is known, that spares asking for more.
func (f *openFile) Read(p []byte) (int, error) {
	for {
		n, err := unix.Read(f.fd, p)
		switch {
		case err == unix.EINTR:
			continue
		case err != nil:
			return 0, err
		case n == 0:
			return 0, io.EOF
		}
		if f.left -= int64(n); f.left == 0 {
			return n, io.EOF
		}
		return n, nil
	}
}

// ours reports whether a file is a regular one of the tree's owner.
func (w *walk) ours(stat *unix.Stat_t) bool {
	return stat.Mode&unix.S_IFMT == unix.S_IFREG && stat.Uid == w.tree.owner
}

func (w *walk) leaveOut(path string, err error) {
	if errors.Is(err, fs.ErrNotExist) {
		return // gone since its directory was read
	}
	w.unreadable.Add(1)
	w.tree.log.Debug().Str("path", "/"+path).Err(err).Msg("cannot be read, and is not in the policy")
}

func (w *walk) summary() {
	if n := w.unreadable.Load(); n > 0 {
		w.tree.log.Warn().Msgf("%d files or directories of %s cannot be read and are not in the policy; run as root, or see with -v which", n, w.tree.root)
	}
	if n := w.foreign.Load(); n > 0 {
		w.tree.log.Info().Msgf("left out %d files of %s that do not belong to user %d", n, w.tree.root, w.tree.owner)
	}
}

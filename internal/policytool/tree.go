package policytool

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"

	"github.com/rs/zerolog"

	"keylime/internal/policytool/collect"
)

// tree is a root file system. Of it the regular files are taken that belong to its owner; symbolic links are never
// followed, and nothing outside is ever opened.
type tree struct {
	root  string
	skip  []string // paths below the root, absolute as seen from it: "/var"
	owner uint32
	// measure: walk the tree first to learn its size, so that the time left can be told.
	measure bool
	log     zerolog.Logger
}

// unattested are the directories of a root file system with what comes and goes, or is not on disk.
var unattested = []string{"/sys", "/run", "/proc", "/lost+found", "/dev", "/media", "/snap", "/mnt", "/var", "/tmp"}

// newTree prepares a root file system. Of the paths to skip those outside it are logged and left out of account.
func newTree(root string, skip []string, log zerolog.Logger) (*tree, error) {
	abs, err := filepath.Abs(root)
	if err != nil {
		return nil, err
	}
	t := &tree{root: abs, skip: slices.Clone(unattested), log: log}
	for _, s := range skip {
		below, err := filepath.Abs(s)
		if err != nil {
			return nil, err
		}
		rel, err := filepath.Rel(abs, below)
		switch {
		case err != nil:
			return nil, err
		case within(below, abs):
			t.skip = []string{"/"}
			log.Warn().Msgf("--skip-path %s leaves nothing of --rootfs %s", s, root)
			return t, nil
		case !within(abs, below):
			log.Warn().Msgf("Ignoring directory '%s' that should be skipped, but it is not under '%s'", s, root)
		default:
			t.skip = append(t.skip, "/"+filepath.ToSlash(rel))
		}
	}
	return t, nil
}

// within reports whether a path is a directory or lies below it; both are absolute and clean.
func within(dir, path string) bool {
	return path == dir || dir == "/" || strings.HasPrefix(path, dir+"/")
}

func (t *tree) String() string { return "root file system " + t.root }

// Collect hashes the files, as many at a time as there are processors.
func (t *tree) Collect(ctx context.Context, into *collect.Files, alg collect.Algorithm) error {
	mounts, err := foreignMounts("/proc/self/mountinfo")
	if err != nil {
		t.log.Debug().Err(err).Msg("mount points are unknown; none is left out")
	}
	root, err := os.OpenRoot(t.root)
	if err != nil {
		return fmt.Errorf("%w: give --rootfs a directory that can be read", err)
	}
	defer root.Close()
	w := walk{tree: t, ctx: ctx, root: root, skip: map[string]bool{}}
	for _, s := range slices.Concat(t.skip, mounts) {
		w.skip[s] = true
	}
	if w.skip["/"] {
		return nil
	}
	if t.measure {
		w.all(runtime.GOMAXPROCS(0), func() visitor { return w.size(into) })
	}
	w.all(runtime.GOMAXPROCS(0), func() visitor { return w.hash(into.Hasher(alg)) })
	w.summary()
	return ctx.Err()
}

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
type visitor func(dir *os.Root, name, path string)

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
	dir, err := w.root.OpenRoot(b.dir)
	if err != nil {
		w.leaveOut(b.dir, err)
		return
	}
	defer dir.Close()
	if b.names != nil {
		w.visit(dir, b, visit)
		return
	}
	list, err := dir.Open(".")
	if err != nil {
		w.leaveOut(b.dir, err)
		return
	}
	defer list.Close()
	for first := true; w.ctx.Err() == nil; first = false {
		entries, err := list.ReadDir(batchSize)
		files := batch{dir: b.dir}
		for _, e := range entries {
			w.sort(e, &files)
		}
		// The first files of a directory are visited here, where it is open.
		if len(files.names) > 0 && (first || !w.add(files)) {
			w.visit(dir, files, visit)
		}
		if err != nil || len(entries) == 0 {
			return // io.EOF; the rest of a directory that fails under way cannot be had
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

func (w *walk) visit(dir *os.Root, b batch, visit visitor) {
	for _, name := range b.names {
		if w.ctx.Err() != nil {
			return
		}
		visit(dir, name, path.Join(b.dir, name))
	}
}

// size visits files to learn what there is to read.
func (w *walk) size(into *collect.Files) visitor {
	return func(dir *os.Root, name, _ string) {
		if info, err := dir.Lstat(name); err == nil && w.ours(info) {
			into.Expect(info.Size())
		}
	}
}

// hash visits files to hash them. What is hashed is decided on the opened file: the name may have come to mean another.
func (w *walk) hash(h *collect.Hasher) visitor {
	return func(dir *os.Root, name, path string) {
		f, err := dir.OpenFile(name, os.O_RDONLY|syscall.O_NOFOLLOW|syscall.O_NONBLOCK, 0)
		if err != nil {
			w.leaveOut(path, err)
			return
		}
		defer f.Close()
		info, err := f.Stat()
		switch {
		case err != nil:
			w.leaveOut(path, err)
		case !info.Mode().IsRegular():
		case !w.ours(info):
			w.foreign.Add(1)
		default:
			if err := h.Add("/"+path, f); err != nil {
				w.leaveOut(path, err)
			}
		}
	}
}

// ours reports whether a file is a regular one of the tree's owner.
func (w *walk) ours(info fs.FileInfo) bool {
	stat, ok := info.Sys().(*syscall.Stat_t)
	return ok && info.Mode().IsRegular() && stat.Uid == w.tree.owner
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

// foreignMounts lists this machine's mount points whose file system is of another type than that of /. They are left
// out of any tree, by their path below its root: of an image of a machine like this one the same directories are meant.
func foreignMounts(mountinfo string) ([]string, error) {
	text, err := os.ReadFile(mountinfo)
	if err != nil {
		return nil, err
	}
	types := map[string]string{} // the last mount on a directory is the one seen
	for line := range strings.Lines(string(text)) {
		// proc_pid_mountinfo(5): ID, parent, device, root, mount point, options, optional fields, "-", type, ...
		before, after, ok := strings.Cut(line, " - ")
		fields := strings.Fields(before)
		kind, _, _ := strings.Cut(after, " ")
		if ok && len(fields) >= 5 {
			types[unescapeMount.Replace(fields[4])] = kind
		}
	}
	var foreign []string
	for at, kind := range types {
		if kind != types["/"] {
			foreign = append(foreign, at)
		}
	}
	return foreign, nil
}

// unescapeMount decodes what the kernel escapes in mount points.
var unescapeMount = strings.NewReplacer(`\040`, " ", `\011`, "\t", `\012`, "\n", `\134`, `\`)

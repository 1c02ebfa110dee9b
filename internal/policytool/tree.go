package policytool

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"

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

func (t *tree) String() string { return "files of " + t.root }

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

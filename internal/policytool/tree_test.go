package policytool

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/rs/zerolog"

	"keylime/internal/policytool/collect"
)

// grow makes a tree of files; a name that ends with a slash is a directory, and "-> " before a content makes it a link.
func grow(t testing.TB, files map[string]string) string {
	t.Helper()
	root := t.TempDir()
	for name, content := range files {
		full := filepath.Join(root, name)
		if err := os.MkdirAll(filepath.Dir(full), 0o700); err != nil {
			t.Fatal(err)
		}
		var err error
		target, link := strings.CutPrefix(content, "-> ")
		switch {
		case strings.HasSuffix(name, "/"):
			err = os.MkdirAll(full, 0o700)
		case link:
			err = os.Symlink(target, full)
		default:
			err = os.WriteFile(full, []byte(content), 0o600)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	return root
}

// hashed collects a tree whose files are the test's own.
func hashed(t testing.TB, tr *tree) map[string]string {
	t.Helper()
	tr.owner = uint32(os.Getuid())
	return collected(t, tr)
}

func collected(t testing.TB, s Source) map[string]string {
	t.Helper()
	files := collect.NewFiles()
	if err := s.Collect(context.Background(), files, collect.SHA256); err != nil {
		t.Fatal(err)
	}
	got := map[string]string{}
	for path, digests := range files.Sorted() {
		for _, d := range digests {
			got[path] = strings.TrimSpace(got[path] + " " + hex.EncodeToString(d))
		}
	}
	return got
}

func sum(content string) string {
	d := sha256.Sum256([]byte(content))
	return hex.EncodeToString(d[:])
}

func newTestTree(t testing.TB, root string, skip ...string) *tree {
	t.Helper()
	tr, err := newTree(root, skip, zerolog.Nop())
	if err != nil {
		t.Fatal(err)
	}
	return tr
}

func TestTreeTakesRegularFilesAlone(t *testing.T) {
	t.Parallel()
	outside := file(t, "secret", "outside")
	root := grow(t, map[string]string{
		"etc/passwd": "root", "usr/bin/a program": "x", "empty": "", "usr/empty/": "",
		"link": "-> etc/passwd", "out": "-> " + outside, "outdir": "-> " + filepath.Dir(outside), "loop": "-> .",
		"usr/up": "-> ../../../../../../../../etc",
	})
	if err := syscall.Mkfifo(filepath.Join(root, "fifo"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Link(filepath.Join(root, "etc/passwd"), filepath.Join(root, "usr/hard")); err != nil {
		t.Fatal(err)
	}
	want := map[string]string{
		"/etc/passwd": sum("root"), "/usr/bin/a_program": sum("x"), "/empty": sum(""), "/usr/hard": sum("root"),
	}
	if diff := cmp.Diff(want, hashed(t, newTestTree(t, root))); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
}

func TestTreeLeavesOut(t *testing.T) {
	t.Parallel()
	files := map[string]string{"usr/x": "", "opt/a/b/c": "", "opt/ab/c": "", "home/opt/a/x": "", "variety": ""}
	for _, dir := range unattested {
		files[dir[1:]+"/x"] = ""
		files["home"+dir+"/x"] = "" // elsewhere the name means nothing
	}
	root := grow(t, files)
	var kept []string
	for name := range files {
		if first, _, below := strings.Cut(name, "/"); !below || !slices.Contains(unattested, "/"+first) {
			kept = append(kept, "/"+name)
		}
	}
	slices.Sort(kept)
	paths := func(skip ...string) []string {
		var list []string
		for path := range hashed(t, newTestTree(t, root, skip...)) {
			list = append(list, path)
		}
		slices.Sort(list)
		return list
	}
	if diff := cmp.Diff(kept, paths()); diff != "" {
		t.Errorf("without --skip-path: (-want +got)\n%s", diff)
	}
	kept = slices.DeleteFunc(kept, func(p string) bool { return strings.HasPrefix(p, "/opt/a/") })
	if diff := cmp.Diff(kept, paths(filepath.Join(root, "opt", "a"), t.TempDir())); diff != "" {
		t.Errorf("with --skip-path: (-want +got)\n%s", diff)
	}
	for _, above := range []string{root, filepath.Dir(root), "/"} {
		if got := paths(above); len(got) > 0 {
			t.Errorf("--skip-path %s leaves %v", above, got)
		}
	}
}

// TestSkipPathsOfTheRootItself: HARDEN 17.
func TestSkipPathsOfTheRootItself(t *testing.T) {
	t.Parallel()
	if tr := newTestTree(t, "/", "/usr/share", "opt"); !slices.Contains(tr.skip, "/usr/share") {
		t.Errorf("of / are skipped %v", tr.skip)
	}
}

func TestTreeOfAnotherOwnerIsLeftOut(t *testing.T) {
	t.Parallel()
	root := grow(t, map[string]string{"a": "", "b": ""})
	var messages bytes.Buffer
	tr, err := newTree(root, nil, zerolog.New(&messages))
	if err != nil {
		t.Fatal(err)
	}
	tr.owner = uint32(os.Getuid()) + 1
	if got := collected(t, tr); len(got) > 0 || !strings.Contains(messages.String(), "left out 2 files") {
		t.Errorf("took %v, messages %s", got, &messages)
	}
}

func TestUnreadableFilesAreLeftOutAndSaid(t *testing.T) {
	t.Parallel()
	if os.Getuid() == 0 {
		t.Skip("nothing is unreadable for root")
	}
	root := grow(t, map[string]string{"a": "a", "b/c": ""})
	for name, mode := range map[string]fs.FileMode{"a": 0, "b": 0} {
		if err := os.Chmod(filepath.Join(root, name), mode); err != nil {
			t.Fatal(err)
		}
	}
	defer os.Chmod(filepath.Join(root, "b"), 0o700)
	var messages bytes.Buffer
	tr, err := newTree(root, nil, zerolog.New(&messages))
	if err != nil {
		t.Fatal(err)
	}
	if got := hashed(t, tr); len(got) > 0 || !strings.Contains(messages.String(), "2 files or directories") {
		t.Errorf("took %v, messages %s", got, &messages)
	}
}

// TestLargeTreeIsComplete: a directory with more files than are read at a time, and deep ones, in whatever order the
// goroutines come to them.
func TestLargeTreeIsComplete(t *testing.T) {
	t.Parallel()
	files := map[string]string{}
	for i := range 3 * batchSize {
		files[fmt.Sprintf("flat/%d", i)] = fmt.Sprint(i)
	}
	deep := "deep"
	for i := range 60 {
		deep = filepath.Join(deep, "d")
		files[filepath.Join(deep, "f")] = fmt.Sprint(i)
	}
	root := grow(t, files)
	want := map[string]string{}
	for name, content := range files {
		want["/"+name] = sum(content)
	}
	tr := newTestTree(t, root)
	tr.measure = true
	if diff := cmp.Diff(want, hashed(t, tr)); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
}

func TestMeasuredTreeKnowsItsSize(t *testing.T) {
	t.Parallel()
	root := grow(t, map[string]string{"a": "12345", "b/c": "678", "var/x": "not read"})
	tr, files := newTestTree(t, root), collect.NewFiles()
	tr.measure, tr.owner = true, uint32(os.Getuid())
	if err := tr.Collect(context.Background(), files, collect.SHA256); err != nil {
		t.Fatal(err)
	}
	if p := files.Progress(); p != (collect.Progress{Files: 2, Bytes: 8, Expected: 8}) {
		t.Errorf("progress %+v", p)
	}
}

// TestTreeIsNotLeftByASwappedLink: a directory is replaced by a link to one outside, again and again, while the tree is
// read. Whatever is seen, nothing of outside is.
func TestTreeIsNotLeftByASwappedLink(t *testing.T) {
	t.Parallel()
	outside := grow(t, map[string]string{"f": "secret"})
	root := grow(t, map[string]string{"d/f": "public", "spare/": ""})
	if err := os.Symlink(outside, filepath.Join(root, "l")); err != nil {
		t.Fatal(err)
	}
	d, l, spare := filepath.Join(root, "d"), filepath.Join(root, "l"), filepath.Join(root, "spare", "d")
	stop := make(chan struct{})
	var swapping sync.WaitGroup
	swapping.Go(func() {
		for {
			select {
			case <-stop:
				return
			default:
			}
			if err := errors.Join(os.Rename(d, spare), os.Rename(l, d), os.Rename(d, l), os.Rename(spare, d)); err != nil {
				t.Error(err)
				return
			}
		}
	})
	for range 300 {
		for path, digest := range hashed(t, newTestTree(t, root)) {
			if digest != sum("public") {
				t.Errorf("%s is %s", path, digest)
			}
		}
	}
	close(stop)
	swapping.Wait()
}

func TestInterruptEndsTheWalk(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	tr := newTestTree(t, grow(t, map[string]string{"a": ""}))
	if err := tr.Collect(ctx, collect.NewFiles(), collect.SHA256); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
}

func TestForeignMounts(t *testing.T) {
	t.Parallel()
	mounts := file(t, "mountinfo", `23 1 8:1 / / rw,relatime shared:1 - ext4 /dev/root rw
24 23 0:21 / /proc rw - proc proc rw
25 23 8:2 / /home rw,relatime shared:2 master:1 - ext4 /dev/sdb rw
26 23 8:3 / /boot/efi rw - vfat /dev/sdc rw
27 23 8:4 / /with\040space rw - xfs /dev/sdd rw
28 23 8:5 / /twice rw - xfs /dev/sde rw
29 23 8:6 / /twice rw - ext4 /dev/sdf rw
`)
	got, err := foreignMounts(mounts)
	slices.Sort(got)
	if want := []string{"/boot/efi", "/proc", "/with space"}; err != nil || !slices.Equal(got, want) {
		t.Errorf("got %v, %v; want %v", got, err, want)
	}
}

package config

import (
	"os"
	"path/filepath"
	"testing"
)

// NT-71: a directory for state that another user made, linked elsewhere or opened to everybody is refused.
func TestPlantedDirectoriesAreRefused(t *testing.T) {
	t.Parallel()
	if os.Geteuid() != 0 {
		t.Skip("skipped: only root can make directories of other users")
	}
	const us, other = 4711, 4712
	dir := t.TempDir()
	mkdir := func(name string, owner int, mode os.FileMode) string {
		path := filepath.Join(dir, name)
		if err := os.Mkdir(path, 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.Chown(path, owner, owner); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(path, mode); err != nil {
			t.Fatal(err)
		}
		return path
	}
	link := func(name, target string, owner int) string {
		path := filepath.Join(dir, name)
		if err := os.Symlink(target, path); err != nil {
			t.Fatal(err)
		}
		if err := os.Lchown(path, owner, owner); err != nil {
			t.Fatal(err)
		}
		return path
	}
	ours := mkdir("ours", us, 0o700)
	theirs := mkdir("theirs", other, 0o755)
	for _, c := range []struct {
		name, path string
		user       int
		ok         bool
	}{
		{"our own", ours, us, true},
		{"root's", mkdir("root", 0, 0o755), us, true},
		{"not there yet", filepath.Join(dir, "absent"), us, true},
		{"a service account's, used by root", theirs, 0, true},
		{"another user's", theirs, us, false},
		{"another user's link to ours", link("trap", ours, other), us, false},
		{"our link to another user's", link("astray", theirs, us), us, false},
		{"open to everybody", mkdir("open", us, 0o777), us, false},
		{"open to everybody, used by root", mkdir("open-root", 0, 0o1777), 0, false},
	} {
		if err := planted(c.path, c.user); (err == nil) != c.ok {
			t.Errorf("%s: %v", c.name, err)
		}
	}
}

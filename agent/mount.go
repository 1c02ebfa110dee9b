package agent

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
)

// secureDir is where keys and payloads live: a tmpfs, so that they never reach a disk.
type secureDir struct {
	path    string
	mounted bool // this process mounted it
}

// mountInfo is where the kernel lists the mounts of this process (proc(5)).
const mountInfo = "/proc/self/mountinfo"

// mountError says why the secure directory cannot be used. Operators' watchers look for how it begins.
type mountError struct{ text string }

func (e *mountError) Error() string { return "Secure mount error: " + e.text }

func mountErrorf(format string, args ...any) error { return &mountError{fmt.Sprintf(format, args...)} }

// openSecureDir uses the tmpfs at path or, as root, mounts one there. Anything else in its place is refused: whoever
// mounted it could read what the tenant sends. The directory is given to the owner, the user that the agent runs as.
func openSecureDir(path, size string, owner identity) (secureDir, error) {
	parent, err := filepath.EvalSymlinks(filepath.Dir(path)) // mountinfo has the real path
	if err != nil {
		return secureDir{}, fmt.Errorf("find the secure directory: %w", err)
	}
	path = filepath.Join(parent, filepath.Base(path))
	if err := makeSecureDir(path); err != nil {
		return secureDir{}, err
	}
	file, err := os.Open(mountInfo)
	if err != nil {
		return secureDir{}, fmt.Errorf("look for the secure mount: %w", err)
	}
	defer file.Close()
	mount, found, err := findMount(file, path)
	if err != nil {
		return secureDir{}, fmt.Errorf("look for the secure mount: %w", err)
	}
	dir := secureDir{path: path}
	if found {
		err = checkSecureMount(path, mount, owner)
	} else {
		err = mountSecure(path, size, owner)
		dir.mounted = err == nil
	}
	if err != nil {
		return secureDir{}, err
	}
	if os.Geteuid() == 0 {
		if err := os.Chown(path, owner.uid, owner.gid); err != nil {
			return secureDir{}, errors.Join(fmt.Errorf("give the secure directory to user %d: %w", owner.uid, err), dir.close())
		}
	}
	return dir, nil
}

func makeSecureDir(path string) error {
	info, err := os.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) {
		if err := os.Mkdir(path, 0o700); err != nil {
			return fmt.Errorf("make the secure directory: %w", err)
		}
		return nil
	}
	if err != nil {
		return fmt.Errorf("look at the secure directory: %w", err)
	}
	if !info.IsDir() {
		return mountErrorf("%s is no directory: remove it", path)
	}
	return nil
}

func mountSecure(path, size string, owner identity) error {
	if os.Geteuid() != 0 {
		return mountErrorf("%s is no tmpfs and only root can mount one: as root, run mount -t tmpfs -o mode=0700,size=%s,uid=%d,gid=%d tmpfs %s",
			path, size, owner.uid, owner.gid, path)
	}
	if err := syscall.Mount("tmpfs", path, "tmpfs", syscall.MS_NOSUID|syscall.MS_NODEV, "mode=0700,size="+size); err != nil {
		return mountErrorf("mount a tmpfs of %s at %s: %v", size, path, err)
	}
	return nil
}

// close unmounts what openSecureDir mounted. It fails while a program works in the directory; the mount then stays, and
// the next start uses it again.
func (s secureDir) close() error {
	if !s.mounted {
		return nil
	}
	if err := syscall.Unmount(s.path, 0); err != nil {
		return fmt.Errorf("unmount %s: %w", s.path, err)
	}
	return nil
}

// mount is one line of mountinfo.
type mount struct {
	root, target, fsType string
}

// findMount returns the topmost mount at exactly the path, which must be absolute and clean.
func findMount(mountinfo io.Reader, path string) (top mount, found bool, err error) {
	text, err := io.ReadAll(io.LimitReader(mountinfo, maxMountInfo+1))
	if err != nil {
		return mount{}, false, err
	}
	if len(text) > maxMountInfo {
		return mount{}, false, fmt.Errorf("%s has more than %d bytes", mountInfo, maxMountInfo)
	}
	for line := range strings.Lines(string(text)) {
		m, err := parseMount(line)
		if err != nil {
			return mount{}, false, err
		}
		if m.target == path {
			top, found = m, true // later lines lie over earlier ones
		}
	}
	return top, found, nil
}

// parseMount reads "ID PARENT MAJOR:MINOR ROOT TARGET OPTIONS [TAG…] - TYPE SOURCE SUPEROPTIONS". Only the fields
// before the separator have a fixed place.
func parseMount(line string) (mount, error) {
	fields := strings.Fields(line)
	dash := slices.Index(fields, "-")
	if dash < 6 || len(fields) < dash+3 {
		return mount{}, fmt.Errorf("mountinfo line %q: want at least ten fields", line)
	}
	root, err := unescapeMount(fields[3])
	if err != nil {
		return mount{}, err
	}
	target, err := unescapeMount(fields[4])
	if err != nil {
		return mount{}, err
	}
	return mount{root: root, target: target, fsType: fields[dash+1]}, nil
}

// unescapeMount decodes the kernel's \ooo for space, tab, newline and backslash.
func unescapeMount(s string) (string, error) {
	if !strings.Contains(s, `\`) {
		return s, nil
	}
	var out strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] != '\\' {
			out.WriteByte(s[i])
			continue
		}
		if i+4 > len(s) {
			return "", fmt.Errorf("mountinfo field %q ends within an escape", s)
		}
		code, err := strconv.ParseUint(s[i+1:i+4], 8, 8)
		if err != nil {
			return "", fmt.Errorf("mountinfo field %q: bad escape", s)
		}
		out.WriteByte(byte(code))
		i += 3
	}
	return out.String(), nil
}

func checkSecureMount(path string, m mount, owner identity) error {
	if m.fsType != "tmpfs" {
		return mountErrorf("Secure storage location %s already mounted on wrong file system type: %s. Unmount it and start again", path, m.fsType)
	}
	if m.root != "/" {
		return mountErrorf("%s shows directory %s of another tmpfs: unmount it and start again", path, m.root)
	}
	info, err := os.Lstat(path)
	if err != nil {
		return fmt.Errorf("look at the secure mount: %w", err)
	}
	if perm := info.Mode().Perm(); perm&0o077 != 0 {
		return mountErrorf("%s has mode %#o, so others could read keys: mount it with mode=0700", path, perm)
	}
	uid := int(info.Sys().(*syscall.Stat_t).Uid)
	if uid != owner.uid && uid != os.Geteuid() {
		return mountErrorf("%s belongs to user %d: mount it with uid=%d", path, uid, owner.uid)
	}
	return nil
}

package config

import (
	"fmt"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
)

// optionError names the option that an error is about.
func optionError(name, format string, args ...any) error {
	return fmt.Errorf("option %s: %w", name, fmt.Errorf(format, args...))
}

// under makes a path absolute below a directory; an absolute path stays.
func under(dir, path string) string {
	if filepath.IsAbs(path) {
		return filepath.Clean(path)
	}
	return filepath.Join(dir, path)
}

// absoluteDir makes the working directory absolute, whatever directory the program was started in.
func absoluteDir(name, dir string) (string, error) {
	if dir == "" {
		return "", optionError(name, "must not be empty")
	}
	abs, err := filepath.Abs(dir)
	if err != nil {
		return "", optionError(name, "%w", err)
	}
	if err := planted(abs, os.Geteuid()); err != nil {
		return "", optionError(name, "%w", err)
	}
	return abs, nil
}

// planted reports a directory that somebody else made, or could have put files into, before this user uses it for
// keys and state. One that is not there yet is fine. Root trusts the accounts that own directories, as a service that
// drops its privileges needs; nobody may use one that everybody can write to.
func planted(dir string, user int) error {
	for _, look := range []func(string) (os.FileInfo, error){os.Lstat, os.Stat} { // a link, and what it leads to
		info, err := look(dir)
		if err != nil {
			return nil // absent, or not ours to see: making or opening it will say so
		}
		if st, ok := info.Sys().(*syscall.Stat_t); ok && user != 0 && st.Uid != 0 && int(st.Uid) != user {
			return fmt.Errorf("%s belongs to user %d: use a directory of your own", dir, st.Uid)
		}
		if info.Mode()&os.ModeSymlink == 0 && info.Mode().Perm()&0o002 != 0 {
			return fmt.Errorf("%s can be written to by everybody: take that right away with chmod o-w", dir)
		}
	}
	return nil
}

var hostLabel = regexp.MustCompile(`^[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?$`)

// parseAddress takes an IP address, with or without brackets, or a host name (RFC 1123).
func parseAddress(s string) (string, error) {
	bare := s
	if strings.HasPrefix(s, "[") && strings.HasSuffix(s, "]") {
		bare = s[1 : len(s)-1]
	}
	if _, err := netip.ParseAddr(bare); err == nil {
		return bare, nil
	}
	labels := strings.Split(strings.TrimSuffix(s, "."), ".")
	last := labels[len(labels)-1]
	numeric := strings.Trim(last, "0123456789") == "" // such as 1.2.3: an address with a mistake
	if len(s) > 253 || numeric || slices.ContainsFunc(labels, func(l string) bool { return !hostLabel.MatchString(l) }) {
		return "", fmt.Errorf("%q is neither", s)
	}
	return s, nil
}

func parseURL(s string) (string, error) {
	if s == "" {
		return "", nil
	}
	u, err := url.Parse(s)
	if err != nil {
		return "", fmt.Errorf("%q is none", s)
	}
	if (u.Scheme != "http" && u.Scheme != "https") || u.Hostname() == "" {
		return "", fmt.Errorf("%q has no host or another scheme", s)
	}
	return s, nil
}

// subset checks that a list has only known items.
func subset(name string, items, known []string) error {
	for _, item := range items {
		if !slices.Contains(known, item) {
			return optionError(name, "%q is not one of %s%s", item, strings.Join(known, ", "), suggest(item, known))
		}
	}
	return nil
}

// exposed reports whether others than its owner can read a file, its directory considered.
func exposed(path string) bool {
	info, err := os.Stat(path)
	if err != nil {
		return false
	}
	mode := info.Mode().Perm()
	dir, err := os.Stat(filepath.Dir(path))
	if err != nil {
		return mode&0o066 != 0
	}
	way := dir.Mode().Perm()
	return mode&0o060 != 0 && way&0o010 != 0 || mode&0o006 != 0 && way&0o001 != 0
}

package agent

import (
	"errors"
	"fmt"
	"os"
	"os/user"
	"slices"
	"strconv"
	"strings"
	"syscall"
)

// identity is the user that the agent runs as.
type identity struct {
	uid, gid int
	groups   []int // supplementary groups, gid among them
}

// currentIdentity is the user of this process.
func currentIdentity() identity { return identity{uid: os.Geteuid(), gid: os.Getegid()} }

// parseRunAs resolves "user:group"; each may be a name in /etc/passwd and /etc/group, or a number. A static program
// cannot ask directory services, so their accounts are given as numbers.
func parseRunAs(runAs string) (identity, error) {
	name, group, ok := strings.Cut(runAs, ":")
	if !ok || name == "" || group == "" {
		return identity{}, fmt.Errorf("run_as %q: want user:group", runAs)
	}
	uid, groups, err := lookupUser(name)
	if err != nil {
		return identity{}, fmt.Errorf("run_as %q: %w", runAs, err)
	}
	gid, err := lookupGroup(group)
	if err != nil {
		return identity{}, fmt.Errorf("run_as %q: %w", runAs, err)
	}
	if !slices.Contains(groups, gid) {
		groups = append(groups, gid)
	}
	return identity{uid: uid, gid: gid, groups: groups}, nil
}

func lookupUser(name string) (uid int, groups []int, err error) {
	u, err := user.Lookup(name)
	if number, notNumber := parseID(name); notNumber == nil {
		if u, err = user.LookupId(name); err != nil {
			return number, nil, nil // an account that is in no file here
		}
	}
	if err != nil {
		return 0, nil, err
	}
	if uid, err = parseID(u.Uid); err != nil {
		return 0, nil, err
	}
	ids, err := u.GroupIds()
	if err != nil {
		return 0, nil, fmt.Errorf("groups of %s: %w", name, err)
	}
	for _, id := range ids {
		gid, err := parseID(id)
		if err != nil {
			return 0, nil, err
		}
		// The primary group of the account is replaced by the configured one.
		if id != u.Gid {
			groups = append(groups, gid)
		}
	}
	return uid, groups, nil
}

func lookupGroup(name string) (int, error) {
	if gid, err := parseID(name); err == nil {
		return gid, nil
	}
	g, err := user.LookupGroup(name)
	if err != nil {
		return 0, err
	}
	return parseID(g.Gid)
}

func parseID(s string) (int, error) {
	// 2^32-1 means "leave as it is" to setuid(2).
	id, err := strconv.ParseUint(s, 10, 32)
	if err != nil || id == 1<<32-1 {
		return 0, fmt.Errorf("%q is no user or group number", s)
	}
	return int(id), nil
}

// drop gives up root for good: supplementary groups first, then the group, then the user, since each needs the
// privileges that the next one gives up. It then makes sure that there is no way back.
func (id identity) drop() error {
	if id.uid == 0 {
		return errors.New("run_as names root: name another user, or set it to \"\" to stay root")
	}
	if err := syscall.Setgroups(id.groups); err != nil {
		return fmt.Errorf("set supplementary groups: %w", err)
	}
	if err := syscall.Setgid(id.gid); err != nil {
		return fmt.Errorf("set group %d: %w", id.gid, err)
	}
	if err := syscall.Setuid(id.uid); err != nil {
		return fmt.Errorf("set user %d: %w", id.uid, err)
	}
	if syscall.Getuid() != id.uid || syscall.Geteuid() != id.uid || syscall.Getgid() != id.gid || syscall.Getegid() != id.gid {
		return errors.New("the kernel did not change user and group")
	}
	if syscall.Setuid(0) == nil || syscall.Setgid(0) == nil {
		return errors.New("root can be taken back after dropping it")
	}
	return nil
}

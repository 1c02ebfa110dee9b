package api

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// Versions of API 2.x, oldest first. Upstream's peers accept only one digit on each side of the point.
var (
	// ServerVersions are what registrar and verifier serve and what the tenant speaks to them.
	ServerVersions = []string{"2.0", "2.1", "2.2", "2.3", "2.4", "2.5", "2.6"}
	// AgentVersions are what an agent serves and what verifier and tenant speak to it.
	AgentVersions = []string{"2.1", "2.2", "2.3", "2.4", "2.5", "2.6"}
)

// Current is the newest version of API 2.x.
const Current = "2.6"

// Served is what a server says that it speaks.
func Served() Version {
	return Version{Current: Current, Supported: append(slices.Clone(ServerVersions), PushVersion)}
}

// ErrNoCommonVersion is returned when two lists have no version in common.
var ErrNoCommonVersion = errors.New("no API version in common")

// number is a version in comparable form; ok is false for anything but "digit.digit".
func number(v string) (n int, ok bool) {
	major, minor, found := strings.Cut(v, ".")
	if !found || len(major) != 1 || len(minor) != 1 {
		return 0, false
	}
	a, errA := strconv.Atoi(major)
	b, errB := strconv.Atoi(minor)
	return 10*a + b, errA == nil && errB == nil && a >= 0 && b >= 0
}

// Newer reports whether version a is newer than b. A malformed version is older than any other.
func Newer(a, b string) bool {
	x, okX := number(a)
	y, okY := number(b)
	return okX && (!okY || x > y)
}

// Negotiate returns the newest version that both lists hold. Malformed entries of the remote list are passed over.
// ErrNoCommonVersion.
func Negotiate(local, remote []string) (string, error) {
	best := ""
	for _, r := range remote {
		for _, l := range local {
			if r == l && Newer(r, best) {
				best = r
			}
		}
	}
	if best == "" {
		return "", fmt.Errorf("%w: here %s; there %q", ErrNoCommonVersion, strings.Join(local, ", "), remote)
	}
	return best, nil
}

// Offered is what an agent says it speaks: its list, or the single version of an old agent.
func (v AgentVersion) Offered() []string {
	if len(v.List) > 0 {
		return v.List
	}
	if v.Supported != "" {
		return []string{v.Supported}
	}
	return nil
}

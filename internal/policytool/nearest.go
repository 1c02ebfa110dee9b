package policytool

import (
	"cmp"
	"path"
	"slices"
	"strings"

	"keylime/internal/spelling"
)

// pathIndex finds the paths of a policy that are like another.
type pathIndex struct {
	byName, byDir map[string][]string
	digests       map[string][]string // in hex
	owners        map[string][]string // paths by digest
}

func newPathIndex(d *document) *pathIndex {
	x := &pathIndex{map[string][]string{}, map[string][]string{}, map[string][]string{}, map[string][]string{}}
	for p, digests := range hexed(d.digests.Sorted()) {
		dir, name := path.Split(p)
		x.byName[name] = append(x.byName[name], p)
		x.byDir[dir] = append(x.byDir[dir], p)
		x.digests[p] = slices.Clone(digests)
		for _, digest := range digests {
			x.owners[digest] = append(x.owners[digest], p)
		}
	}
	return x
}

// Limits of a search: an answer has few paths, and directories may have tens of thousands.
const (
	mostNear       = 3
	mostCandidates = 4096
)

// nearest returns the paths most like p: of the same name elsewhere, or of a similar name in the same directory.
func (x *pathIndex) nearest(p string) []string {
	dir, name := path.Split(p)
	type near struct {
		path     string
		distance int
	}
	var found []near
	candidates := slices.Concat(x.byName[name], x.byDir[dir])
	for _, c := range candidates[:min(len(candidates), mostCandidates)] {
		otherDir, otherName := path.Split(c)
		switch {
		case c == p:
		case otherName == name:
			// Most systems have /bin and /lib in /usr, and show either.
			found = append(found, near{c, 1 + spelling.Distance(strings.TrimPrefix(otherDir, "/usr"), strings.TrimPrefix(dir, "/usr"))})
		case otherDir == dir && 3*max(len(otherName)-len(name), len(name)-len(otherName)) <= max(len(name), 3):
			// Up to a third of a name may differ, as with the versions of libraries; case does not count.
			if d := spelling.Distance(strings.ToLower(otherName), strings.ToLower(name)); 3*d <= max(len(name), 3) {
				found = append(found, near{c, 1 + 2*d})
			}
		}
	}
	slices.SortFunc(found, func(a, b near) int { return cmp.Or(a.distance-b.distance, strings.Compare(a.path, b.path)) })
	paths := []string{}
	for _, n := range found[:min(len(found), mostNear)] {
		paths = append(paths, n.path)
	}
	return paths
}

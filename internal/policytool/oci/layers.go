package oci

import (
	"context"
	"io"
	"path"
	"strings"

	"keylime/internal/policytool/archive"
	"keylime/internal/policytool/collect"
)

const (
	// maxLayer is what the files of one layer may take together.
	maxLayer = 256 << 30

	whiteout = ".wh."
	opaque   = ".wh..wh..opq"
	private  = ".wh..wh." // bookkeeping of AUFS
)

// changes is what a layer changes, in the order of its archive.
type changes struct {
	list     []change
	digests  []byte // of the files, one behind the other
	dangling int    // hard links to what the layer does not hold
}

type change struct {
	path string
	kind changeKind
}

type changeKind byte

const (
	madeFile      changeKind = iota // with the next digest
	madeOther                       // a link, a device
	madeDirectory                   // or kept one
	removed                         // path of layers below
	emptied                         // directory of layers below
)

// readLayer reads the compressed or plain archive of a layer.
func readLayer(ctx context.Context, r io.Reader, alg collect.Algorithm, progress *collect.Files) (*changes, error) {
	content, err := archive.Unpack(r, maxLayer)
	if err != nil {
		return nil, err
	}
	defer content.Close()
	c := &changes{}
	err = archive.Digests(ctx, content, alg, progress, func(e archive.Entry, digest []byte) error {
		c.note(e, digest)
		return nil
	})
	if err != nil {
		return nil, err
	}
	_, err = io.Copy(io.Discard, r)
	return c, err
}

// note adds one entry. Whiteouts are files whose names say what goes (OCI image-spec, layer.md).
func (c *changes) note(e archive.Entry, digest []byte) {
	dir, name := path.Split(e.Path)
	dir = strings.TrimSuffix(dir, "/")
	switch {
	case name == opaque:
		c.list = append(c.list, change{dir, emptied})
	case strings.HasPrefix(name, private):
	case strings.HasPrefix(name, whiteout) && name != whiteout:
		c.list = append(c.list, change{dir + "/" + name[len(whiteout):], removed})
	case digest != nil:
		c.list = append(c.list, change{e.Path, madeFile})
		c.digests = append(c.digests, digest...)
	case e.Kind == archive.Directory:
		c.list = append(c.list, change{strings.TrimSuffix(e.Path, "/"), madeDirectory})
	default:
		if e.Kind == archive.HardLink {
			c.dangling++
		}
		c.list = append(c.list, change{e.Path, madeOther})
	}
}

// view is what is visible of an image, from above: layers are shown to it from the last one down, and each file that
// nothing above hides goes into the policy.
type view struct {
	keys    archive.Keys
	covered map[archive.Key]struct{} // paths that a layer above has decided on
	cut     map[archive.Key]struct{} // paths below which nothing of the layers below is visible
	into    *collect.Files
	size    int // of digests
}

func newView(into *collect.Files, alg collect.Algorithm) *view {
	return &view{
		keys:    archive.NewKeys(),
		covered: map[archive.Key]struct{}{},
		cut:     map[archive.Key]struct{}{},
		into:    into,
		size:    alg.Size(),
	}
}

// below shows the next layer down. Within a layer the last entry of a path counts, so it is read from its end; whiteouts
// hide what is below the layer only, wherever they stand in it.
func (v *view) below(c *changes) {
	digests := c.digests
	var hidden []change
	for i := len(c.list) - 1; i >= 0; i-- {
		change := c.list[i]
		key := v.keys.Of(change.path)
		switch change.kind {
		case removed, emptied:
			hidden = append(hidden, change)
			continue
		case madeFile:
			digest := digests[len(digests)-v.size:]
			digests = digests[:len(digests)-v.size]
			if !v.hides(change.path, key) {
				v.into.Add(change.path, digest)
			}
		}
		if _, decided := v.covered[key]; !decided {
			v.covered[key] = struct{}{}
			if change.kind != madeDirectory {
				v.cut[key] = struct{}{}
			}
		}
	}
	for _, change := range hidden {
		key := v.keys.Of(change.path)
		v.cut[key] = struct{}{}
		if change.kind == removed {
			v.covered[key] = struct{}{}
		}
	}
}

// hides tells whether what is above decides on a path.
func (v *view) hides(path string, key archive.Key) bool {
	if _, ok := v.covered[key]; ok {
		return true
	}
	for {
		i := strings.LastIndexByte(path, '/')
		if i < 0 {
			return false
		}
		path = path[:i]
		if _, ok := v.cut[v.keys.Of(path)]; ok {
			return true
		}
	}
}

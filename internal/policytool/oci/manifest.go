package oci

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"strings"

	"keylime/internal/strictjson"
)

const (
	maxDocument = 4 << 20 // as registries allow
	maxDepth    = 32      // of JSON
	maxIndices  = 4       // indices in indices
	maxImages   = 256
	maxLayers   = 512
)

func decode(text []byte, v any) error { return strictjson.Unmarshal(text, maxDepth, v) }

// descriptor refers to a blob (OCI image-spec, descriptor.md).
type descriptor struct {
	MediaType   string            `json:"mediaType"`
	Digest      string            `json:"digest"`
	Size        int64             `json:"size"`
	Platform    *platform         `json:"platform"`
	Annotations map[string]string `json:"annotations"`
}

// platform is what an image runs on.
type platform struct {
	OS           string `json:"os"`
	Architecture string `json:"architecture"`
	Variant      string `json:"variant"`
}

func (p platform) String() string {
	return strings.TrimSuffix(p.OS+"/"+p.Architecture+"/"+p.Variant, "/")
}

// matches tells whether p is what was asked for, which may leave the variant open.
func (p platform) matches(want platform) bool {
	return p.OS == want.OS && p.Architecture == want.Architecture && (want.Variant == "" || p.Variant == want.Variant)
}

// parsePlatform reads OS/ARCHITECTURE[/VARIANT].
func parsePlatform(text string) (p platform, err error) {
	parts := strings.Split(text, "/")
	if len(parts) < 2 || len(parts) > 3 || slices.Contains(parts, "") {
		return p, fmt.Errorf("platform %q: give OS/ARCHITECTURE[/VARIANT], such as linux/%s", text, runtime.GOARCH)
	}
	p.OS, p.Architecture = parts[0], parts[1]
	if len(parts) == 3 {
		p.Variant = parts[2]
	}
	return p, nil
}

// imageIndex and manifest are the documents of OCI image-spec's image-index.md and manifest.md.
type imageIndex struct {
	Manifests []descriptor `json:"manifests"`
}

type manifest struct {
	MediaType string       `json:"mediaType"`
	Config    descriptor   `json:"config"`
	Layers    []descriptor `json:"layers"`
}

// refName is the annotation that names an image in a layout's index.
const refName = "org.opencontainers.image.ref.name"

func isIndex(mediaType string) bool {
	return mediaType == "application/vnd.oci.image.index.v1+json" || mediaType == "application/vnd.docker.distribution.manifest.list.v2+json"
}

func isManifest(mediaType string) bool {
	return mediaType == "application/vnd.oci.image.manifest.v1+json" || mediaType == "application/vnd.docker.distribution.manifest.v2+json"
}

// image is an image of a layout.
type image struct {
	platform platform
	manifest manifest
}

// chooser looks for the images that are asked for.
type chooser struct {
	layout *layout
	name   string    // of the image; "": any
	want   *platform // nil: the only one there is
	images []image
	seen   map[string]bool // manifests, by digest
	others []string        // names and platforms that were not asked for
}

// choose returns the images of the layout that are asked for. Several of one platform are all meant; when there are
// several platforms one must be named.
func (c *chooser) choose(ctx context.Context) ([]image, error) {
	const name = "index.json"
	text, err := c.layout.read(ctx, name)
	if err != nil {
		return nil, err
	}
	var top imageIndex
	if err := decode(text, &top); err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	c.seen = map[string]bool{}
	for _, d := range top.Manifests {
		if ref := d.Annotations[refName]; c.name != "" && ref != c.name {
			c.others = append(c.others, ref)
			continue
		}
		if err := c.visit(ctx, d, maxIndices); err != nil {
			return nil, err
		}
	}
	if len(c.images) == 0 {
		return nil, fmt.Errorf("it has no such image, it has: %s", strings.Join(unique(c.others), ", "))
	}
	var platforms []string
	for _, i := range c.images {
		platforms = append(platforms, i.platform.String())
	}
	if platforms = unique(platforms); c.want == nil && len(platforms) > 1 {
		return nil, fmt.Errorf("it has images for several platforms, choose with --oci-platform: %s", strings.Join(platforms, ", "))
	}
	return c.images, nil
}

func unique(list []string) []string {
	list = slices.Clone(list)
	slices.Sort(list)
	return slices.Compact(list)
}

// visit adds the images that a descriptor leads to, through at most so many indices.
func (c *chooser) visit(ctx context.Context, d descriptor, indices int) error {
	switch {
	case c.seen[d.Digest]:
		return nil
	case len(c.seen) == maxImages:
		return fmt.Errorf("it has more than %d images and indices: refused", maxImages)
	case isIndex(d.MediaType):
		c.seen[d.Digest] = true
		if indices == 0 {
			return fmt.Errorf("it has more than %d indices within each other: refused", maxIndices)
		}
		var index imageIndex
		if err := c.layout.document(ctx, d, &index); err != nil {
			return fmt.Errorf("image index: %w", err)
		}
		for _, d := range index.Manifests {
			if err := c.visit(ctx, d, indices-1); err != nil {
				return err
			}
		}
		return nil
	case isManifest(d.MediaType):
		c.seen[d.Digest] = true
		return c.add(ctx, d)
	}
	return nil // artifacts that are no images may be anywhere
}

func (c *chooser) add(ctx context.Context, d descriptor) error {
	// Build tools keep attestations beside images, for a platform that there is not.
	if d.Platform != nil && d.Platform.OS == "unknown" {
		return nil
	}
	if d.Platform != nil && c.want != nil && !d.Platform.matches(*c.want) {
		c.others = append(c.others, d.Platform.String())
		return nil
	}
	var i image
	if err := c.layout.document(ctx, d, &i.manifest); err != nil {
		return fmt.Errorf("manifest: %w", err)
	}
	if m := i.manifest.MediaType; m != "" && m != d.MediaType {
		return fmt.Errorf("manifest %s says that it is %.100q and is listed as %.100q", d.Digest, m, d.MediaType)
	}
	if len(i.manifest.Layers) > maxLayers {
		return fmt.Errorf("manifest %s has more than %d layers: refused", d.Digest, maxLayers)
	}
	if !isConfig(i.manifest.Config.MediaType) {
		return nil
	}
	if d.Platform != nil {
		i.platform = *d.Platform
	} else if err := c.layout.document(ctx, i.manifest.Config, &i.platform); err != nil {
		return fmt.Errorf("image configuration: %w", err)
	}
	if c.want != nil && !i.platform.matches(*c.want) {
		c.others = append(c.others, i.platform.String())
		return nil
	}
	c.images = append(c.images, i)
	return nil
}

// isConfig tells images from what else manifests describe: charts, signatures.
func isConfig(mediaType string) bool {
	return mediaType == "application/vnd.oci.image.config.v1+json" || mediaType == "application/vnd.docker.container.image.v1+json"
}

// checkLayer refuses what is no file system.
func checkLayer(d descriptor) error {
	if strings.HasSuffix(d.MediaType, "+encrypted") {
		return errors.New("the layer is encrypted: decrypt the image first")
	}
	if !strings.Contains(d.MediaType, ".layer.") && !strings.Contains(d.MediaType, ".rootfs.") {
		return fmt.Errorf("a layer of type %.100q is no file system", d.MediaType)
	}
	return nil
}

package rpm

import (
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/url"
	"path"
	"strings"

	"keylime/internal/policytool/collect"
	"keylime/internal/policytool/repo"
)

const (
	maxElement  = 4 << 20 // bytes of one package in an index
	maxPackages = 1 << 20
)

// index is a file of metadata, or a package, that metadata vouch for.
type index struct {
	file string
	sum  repo.Checksum
}

// checksum and location are written alike in all metadata.
type checksum struct {
	Type  string `xml:"type,attr"`
	Value string `xml:",chardata"`
}

type location struct {
	Href string `xml:"href,attr"`
	Base string `xml:"http://www.w3.org/XML/1998/namespace base,attr"`
}

// name is the file's name in the repository. References are relative; characters may be percent-encoded.
func (l location) name() (string, error) {
	plain, err := url.PathUnescape(l.Href)
	if err != nil {
		plain = l.Href
	}
	if plain = path.Clean(plain); l.Base != "" || !fs.ValidPath(plain) || plain == "." {
		return "", fmt.Errorf("the location %.200q %.200q is not in the repository: only its own files are read", l.Base, l.Href)
	}
	return plain, nil
}

func indexOf(l location, c checksum, size int64) (i index, err error) {
	if i.file, err = l.name(); err != nil {
		return i, err
	}
	i.sum, err = repo.ParseChecksum(c.Type, strings.TrimSpace(c.Value), size)
	return i, err
}

// parseRepomd reads repomd.xml and returns the indices of the wanted types.
func parseRepomd(text []byte, types ...string) (map[string]index, error) {
	var doc struct {
		XMLName xml.Name `xml:"http://linux.duke.edu/metadata/repo repomd"`
		Data    []struct {
			Type     string   `xml:"type,attr"`
			Checksum checksum `xml:"http://linux.duke.edu/metadata/repo checksum"`
			Location location `xml:"http://linux.duke.edu/metadata/repo location"`
			Size     *int64   `xml:"http://linux.duke.edu/metadata/repo size"`
		} `xml:"http://linux.duke.edu/metadata/repo data"`
	}
	if err := xml.Unmarshal(text, &doc); err != nil {
		return nil, err
	}
	found := map[string]index{}
	for _, data := range doc.Data {
		for _, wanted := range types {
			if data.Type != wanted {
				continue
			}
			if _, twice := found[wanted]; twice {
				return nil, fmt.Errorf("it lists %s twice", wanted)
			}
			size := int64(-1)
			if data.Size != nil {
				size = *data.Size
			}
			i, err := indexOf(data.Location, data.Checksum, size)
			if err != nil {
				return nil, fmt.Errorf("%s: %w", wanted, err)
			}
			found[wanted] = i
		}
	}
	return found, nil
}

// listed is a package that primary lists.
type listed struct {
	index
	headerEnd int64 // where the header ends in the file; 0: not stated
}

// parsePrimary reads a primary index. Source packages, which install nothing, are left out.
func parsePrimary(r io.Reader) (packages []listed, err error) {
	err = eachElement(r, maxElement, "http://linux.duke.edu/metadata/common", "package", func(d *xml.Decoder, start *xml.StartElement) error {
		var p struct {
			Type     string   `xml:"type,attr"`
			Arch     string   `xml:"http://linux.duke.edu/metadata/common arch"`
			Checksum checksum `xml:"http://linux.duke.edu/metadata/common checksum"`
			Location location `xml:"http://linux.duke.edu/metadata/common location"`
			Size     struct {
				Package *int64 `xml:"package,attr"`
			} `xml:"http://linux.duke.edu/metadata/common size"`
			Format struct {
				HeaderRange struct {
					End int64 `xml:"end,attr"`
				} `xml:"http://linux.duke.edu/metadata/rpm header-range"`
			} `xml:"http://linux.duke.edu/metadata/common format"`
		}
		if err := d.DecodeElement(&p, start); err != nil {
			return err
		}
		if p.Type != "rpm" || p.Arch == "src" || p.Arch == "nosrc" {
			return nil
		}
		if len(packages) == maxPackages {
			return fmt.Errorf("more than %d packages: refused", maxPackages)
		}
		size := int64(-1)
		if p.Size.Package != nil {
			size = *p.Size.Package
		}
		i, err := indexOf(p.Location, p.Checksum, size)
		if err != nil {
			return fmt.Errorf("package %d: %w", len(packages)+1, err)
		}
		packages = append(packages, listed{i, max(p.Format.HeaderRange.End, 0)})
		return nil
	})
	return packages, err
}

// parseFileLists reads an extended list of files and adds those that have a digest.
func parseFileLists(r io.Reader, into *collect.Files) error {
	return eachElement(r, maxElement, "http://linux.duke.edu/metadata/filelists-ext", "file", func(d *xml.Decoder, start *xml.StartElement) error {
		var f struct {
			Hash string `xml:"hash,attr"`
			Path string `xml:",chardata"`
		}
		if err := d.DecodeElement(&f, start); err != nil {
			return err
		}
		digest, err := parseDigest(f.Hash)
		if err != nil {
			return fmt.Errorf("file %.200q has the digest %.140q", f.Path, f.Hash)
		}
		if digest != nil && path.IsAbs(f.Path) {
			into.Add(path.Clean(f.Path), digest)
		}
		return nil
	})
}

// eachElement calls visit for each element of a name in an XML document, which visit must decode. No element of that name
// may be larger than max bytes, nor what lies between two of them.
func eachElement(r io.Reader, max int, space, name string, visit func(*xml.Decoder, *xml.StartElement) error) error {
	budget := &budget{r: r, left: max}
	d := xml.NewDecoder(budget)
	for {
		token, err := d.Token()
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
		start, ok := token.(xml.StartElement)
		if !ok || start.Name != (xml.Name{Space: space, Local: name}) {
			continue
		}
		if err := visit(d, &start); err != nil {
			return err
		}
		budget.left = max
	}
}

// budget fails when more is read than is left.
type budget struct {
	r    io.Reader
	left int
}

var errElement = errors.New("an element is too large: refused")

func (b *budget) Read(p []byte) (int, error) {
	n, err := b.r.Read(p)
	if b.left -= n; b.left < 0 {
		return 0, errElement
	}
	return n, err
}

package policytool

import (
	"bufio"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"iter"
	"maps"
	"slices"
	"strings"
	"time"

	"keylime/internal/policy"
	"keylime/internal/policytool/collect"
	"keylime/internal/python"
	"keylime/internal/strictjson"
)

// document is a runtime policy in the making.
type document struct {
	digests   *collect.Files      // of files by path
	keyrings  map[string][]string // digests of keys by ring
	buffers   map[string][]string // digests of critical data by name
	excludes  []string
	ignored   []string // keyrings
	logHash   string   // of the template hashes in measurement lists
	keys      string   // "verification-keys"
	firstSize int      // bytes of the first digest of a file; 0 without one
}

func newDocument() *document {
	return &document{
		digests: collect.NewFiles(), keyrings: map[string][]string{}, buffers: map[string][]string{},
		logHash: string(collect.SHA1),
	}
}

// maxNesting: a policy nests three levels, and may hold properties that nobody here knows.
const maxNesting = 32

// readDocument reads the parts of a policy that a new one may be based on. The text need not be a complete policy: what
// it lacks is empty.
func readDocument(text []byte) (*document, error) {
	d := newDocument()
	r := strictjson.NewReader(string(text), maxNesting)
	err := r.Object(func(name string) error {
		var err error
		switch name {
		case "digests":
			err = readDigests(r, d.addFile)
		case "keyrings":
			err = readDigests(r, addTo(d.keyrings))
		case "ima-buf":
			err = readDigests(r, addTo(d.buffers))
		case "excludes":
			d.excludes, err = readStrings(r)
		case "ima":
			err = d.readIMA(r)
		case "verification-keys":
			d.keys, err = r.String()
		default:
			err = r.Skip()
		}
		if err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		return nil
	})
	if err == nil {
		err = r.End()
	}
	if err != nil {
		return nil, err
	}
	return d, nil
}

func (d *document) readIMA(r *strictjson.Reader) error {
	return r.Object(func(name string) (err error) {
		switch name {
		case "ignored_keyrings":
			d.ignored, err = readStrings(r)
		case "log_hash_alg":
			d.logHash, err = r.String()
		default:
			err = r.Skip()
		}
		return err
	})
}

func (d *document) addFile(path, digits string) error {
	digest, err := parseDigest(digits)
	if err != nil {
		return err
	}
	if d.firstSize == 0 {
		d.firstSize = len(digest)
	}
	d.digests.Add(path, digest)
	return nil
}

func addTo(m map[string][]string) func(name, digits string) error {
	return func(name, digits string) error {
		if _, err := parseDigest(digits); err != nil {
			return err
		}
		m[strings.Clone(name)] = append(m[name], strings.Clone(digits))
		return nil
	}
}

var errDigest = errors.New("no digest: want 40 to 128 lower-case hexadecimal digits, an even number")

// parseDigest reads a digest as policies write it.
func parseDigest(digits string) ([]byte, error) {
	digest, err := hex.DecodeString(digits)
	if err != nil || len(digits) < 40 || len(digits) > 128 || strings.ToLower(digits) != digits {
		return nil, fmt.Errorf("%q is %w", clip(digits), errDigest)
	}
	return digest, nil
}

// clip shortens what a message quotes.
func clip(s string) string {
	const most = 130
	if len(s) > most {
		return s[:most] + "…"
	}
	return s
}

// readDigests reads an object of name to list of digests.
func readDigests(r *strictjson.Reader, add func(name, digits string) error) error {
	return r.Object(func(name string) error {
		return r.Array(func() error {
			digits, err := r.String()
			if err != nil {
				return err
			}
			if err := add(name, digits); err != nil {
				return fmt.Errorf("%q: %w", clip(name), err)
			}
			return nil
		})
	})
}

func readStrings(r *strictjson.Reader) (list []string, err error) {
	err = r.Array(func() error {
		s, err := r.String()
		list = append(list, strings.Clone(s))
		return err
	})
	return list, err
}

// normalise sorts the lists and drops what stands in them twice.
func (d *document) normalise() {
	d.excludes = distinct(d.excludes)
	d.ignored = distinct(d.ignored)
	for _, m := range []map[string][]string{d.keyrings, d.buffers} {
		for name, digests := range m {
			m[name] = distinct(digests)
		}
	}
}

func distinct(list []string) []string { return slices.Compact(slices.Sorted(slices.Values(list))) }

// check holds the policy to the rules that a verifier holds it to. The digests of files obey them already: a collection
// holds no others.
func (d *document) check() error {
	rest := *d
	rest.digests = collect.NewFiles()
	var text strings.Builder
	if err := rest.write(&text, time.Unix(0, 0)); err != nil {
		return err
	}
	_, err := policy.CompileRuntime([]byte(text.String()))
	return err
}

// write prints the policy as Python's json.dumps does, names in the order of the schema. The time is local, as upstream's.
func (d *document) write(w io.Writer, now time.Time) error {
	out := bufio.NewWriterSize(w, 64<<10)
	fmt.Fprintf(out, `{"meta": {"version": 1, "generator": %d, "timestamp": "%s"}, "release": 0, "digests": `,
		policy.GeneratorLegacy, now.Local().Format("2006-01-02 15:04:05.000000"))
	writeDigests(out, hexed(d.digests.Sorted()))
	out.WriteString(`, "excludes": `)
	writeStrings(out, d.excludes)
	out.WriteString(`, "keyrings": `)
	writeDigests(out, sorted(d.keyrings))
	out.WriteString(`, "ima": {"ignored_keyrings": `)
	writeStrings(out, d.ignored)
	fmt.Fprintf(out, `, "log_hash_alg": %s, "dm_policy": null}, "ima-buf": `, python.JSON.Quote(d.logHash))
	writeDigests(out, sorted(d.buffers))
	fmt.Fprintf(out, `, "verification-keys": %s}`, python.JSON.Quote(d.keys))
	return out.Flush()
}

// writeLegacy prints the digests alone in the flat format of allow lists, the boot aggregate first.
func (d *document) writeLegacy(w io.Writer) error {
	const bootAggregate = "boot_aggregate"
	out := bufio.NewWriterSize(w, 64<<10)
	line := func(path string, digests []string) {
		for _, digest := range digests {
			out.WriteString(digest + "  " + path + "\n")
		}
	}
	for path, digests := range hexed(d.digests.Sorted()) {
		if path == bootAggregate {
			line(path, digests)
		}
	}
	for path, digests := range hexed(d.digests.Sorted()) {
		if path != bootAggregate {
			line(path, digests)
		}
	}
	return out.Flush()
}

// hexed turns digests into text, valid until the next.
func hexed(files iter.Seq2[string, [][]byte]) iter.Seq2[string, []string] {
	return func(yield func(string, []string) bool) {
		var texts []string
		for name, digests := range files {
			texts = texts[:0]
			for _, d := range digests {
				texts = append(texts, hex.EncodeToString(d))
			}
			if !yield(name, texts) {
				return
			}
		}
	}
}

func sorted(m map[string][]string) iter.Seq2[string, []string] {
	return func(yield func(string, []string) bool) {
		for _, name := range slices.Sorted(maps.Keys(m)) {
			if !yield(name, m[name]) {
				return
			}
		}
	}
}

func writeDigests(out *bufio.Writer, entries iter.Seq2[string, []string]) {
	separator := "{"
	for name, digests := range entries {
		out.WriteString(separator + python.JSON.Quote(name) + ": ")
		writeStrings(out, digests)
		separator = ", "
	}
	if separator == "{" {
		out.WriteString("{")
	}
	out.WriteString("}")
}

func writeStrings(out *bufio.Writer, list []string) {
	out.WriteString("[")
	for i, s := range list {
		if i > 0 {
			out.WriteString(", ")
		}
		out.WriteString(python.JSON.Quote(s))
	}
	out.WriteString("]")
}

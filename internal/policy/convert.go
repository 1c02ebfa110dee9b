package policy

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"keylime/ima"
	"keylime/internal/strictjson"
)

// Converted is a runtime policy made from an older form. It is not compiled: whoever uses it learns from CompileRuntime
// whether its content is valid.
type Converted struct {
	Text  []byte   // the runtime policy, JSON
	Notes []string // what was left out or is a default, for the user to know
}

// Additions are what a conversion adds to a policy.
type Additions struct {
	Excludes []byte     // an exclude list: patterns, one a line; blank lines and those that begin with # are skipped
	Keys     []*ima.Key // for verification-keys
}

// ConvertAllowList makes a runtime policy of an allow list of one of the formats before runtime policies: lines of a
// digest and a path, where a path "%keyring:NAME" is a keyring, or JSON with "hashes". now becomes the timestamp.
func ConvertAllowList(text []byte, more Additions, now time.Time) (Converted, error) {
	if len(text) > MaxRuntimeBytes {
		return Converted{}, fmt.Errorf("allow list of %d bytes exceeds %d", len(text), MaxRuntimeBytes)
	}
	c := conversion{}
	first := bytes.TrimSpace(text)
	if len(first) == 0 || first[0] != '{' && first[0] != '[' {
		c.fromFlat(string(text), now)
		return c.finish(more)
	}
	old, err := readMembers(text)
	if err != nil {
		return Converted{}, fmt.Errorf("allow list: %w", err)
	}
	switch {
	case truthy(old.get("hashes")):
		if err := c.fromLegacy(old, now); err != nil {
			return Converted{}, fmt.Errorf("allow list: %w", err)
		}
	case truthy(old.get("digests")):
		return Converted{}, errors.New("it is a runtime policy already, and no allow list; give it as the runtime policy")
	default:
		return Converted{}, errors.New(`allow list: neither "hashes" nor lines of a digest and a path`)
	}
	return c.finish(more)
}

// UpdateRuntime brings a runtime policy to the current version, if it is older, and adds to it.
func UpdateRuntime(text []byte, more Additions, now time.Time) (Converted, error) {
	if len(text) > MaxRuntimeBytes {
		return Converted{}, fmt.Errorf("runtime policy of %d bytes exceeds %d", len(text), MaxRuntimeBytes)
	}
	old, err := readMembers(text)
	if err != nil {
		return Converted{}, fmt.Errorf("runtime policy: %w", err)
	}
	c := conversion{members: old}
	if version := policyVersion(old); version < currentVersion {
		c.note("the policy has version %v, it is brought to version %d", version, currentVersion)
		c.migrate(old, "", GeneratorCompatible, now)
	}
	return c.finish(more)
}

// currentVersion is meta.version of the policies that verifiers read.
const currentVersion = 1

// policyVersion is meta.version; one that is missing or no number counts as 0.
func policyVersion(m members) float64 {
	var meta struct {
		Version any `json:"version"`
	}
	_ = json.Unmarshal([]byte(m.get("meta")), &meta)
	version, _ := meta.Version.(float64)
	return version
}

// conversion is a policy in the making, each member as JSON.
type conversion struct {
	members members
	notes   []string
}

func (c *conversion) note(format string, args ...any) {
	c.notes = append(c.notes, fmt.Sprintf(format, args...))
}

// migrate makes a policy with the members of an old one, and the default of each that it lacks. The digests are under
// digestsName there.
func (c *conversion) migrate(old members, digestsName string, generator int, now time.Time) {
	c.members = nil
	for _, d := range defaults(generator, now) {
		name := d.name
		if name == "digests" && digestsName != "" {
			name = digestsName
		}
		if value := old.get(name); d.name != "meta" && truthy(value) {
			d.value = value
		} else if d.name != "meta" {
			c.note("%q is not in the old file; the default is used", d.name)
		}
		c.members = append(c.members, d)
	}
	c.completeIMA()
}

// fromLegacy converts JSON with "hashes".
func (c *conversion) fromLegacy(old members, now time.Time) error {
	digests := newDigestLists()
	r := strictjson.NewReader(old.get("hashes"), maxDepth)
	err := r.Object(func(path string) error {
		return r.Array(func() error {
			digest, err := r.String()
			digests.add(path, digest)
			return err
		})
	})
	if err != nil {
		return fmt.Errorf("hashes: %w", err)
	}
	c.migrate(old, "hashes", GeneratorLegacy, now)
	c.members.set("digests", digests.json())
	return nil
}

// fromFlat converts lines.
func (c *conversion) fromFlat(text string, now time.Time) {
	digests, keyrings := newDigestLists(), newDigestLists()
	number := 0
	for line := range strings.Lines(text) {
		number++
		line = strings.TrimSpace(line)
		if line == "" {
			continue
		}
		end := strings.IndexAny(line, " \t")
		if end < 0 {
			c.note("line %d is not a digest and a path: %s", number, clipText(line))
			continue
		}
		digest, path := line[:end], strings.TrimSpace(line[end:])
		if ring, ok := strings.CutPrefix(path, "%keyring:"); ok {
			keyrings.add(ring, digest)
		} else {
			digests.add(path, digest)
		}
	}
	c.members = defaults(GeneratorLegacy, now)
	c.members.set("digests", digests.json())
	c.members.set("keyrings", keyrings.json())
}

// completeIMA adds to "ima" the members that older policies did without.
func (c *conversion) completeIMA() {
	ima, err := readMembers([]byte(c.members.get("ima")))
	if err != nil {
		return // not an object: left for CompileRuntime to report
	}
	def, _ := readMembers([]byte(defaultIMA)) // valid
	for _, d := range def {
		if ima.get(d.name) == "" {
			c.note("%q is not in \"ima\" of the old file; the default is used", d.name)
			ima = append(ima, d)
		}
	}
	c.members.set("ima", ima.json())
}

// finish adds what is to be added and writes the policy.
func (c *conversion) finish(more Additions) (Converted, error) {
	if err := c.addExcludes(more.Excludes); err != nil {
		return Converted{}, err
	}
	if err := c.addKeys(more.Keys); err != nil {
		return Converted{}, err
	}
	return Converted{[]byte(c.members.json()), c.notes}, nil
}

// addExcludes appends the patterns of an exclude list.
func (c *conversion) addExcludes(list []byte) error {
	var patterns []string
	for line := range strings.Lines(string(list)) {
		if line = strings.TrimSpace(line); line != "" && line[0] != '#' {
			patterns = append(patterns, line)
		}
	}
	if len(patterns) == 0 {
		return nil
	}
	var all []string
	if value := c.members.get("excludes"); value != "" {
		if err := json.Unmarshal([]byte(value), &all); err != nil {
			return fmt.Errorf("excludes of the policy: %w", err)
		}
	}
	c.members.set("excludes", quoteList(append(all, patterns...)))
	return nil
}

// addKeys appends keys to verification-keys. Keys there that this release cannot use are kept out of it.
func (c *conversion) addKeys(keys []*ima.Key) error {
	if len(keys) == 0 {
		return nil
	}
	var text string
	if value := c.members.get("verification-keys"); truthy(value) {
		if err := json.Unmarshal([]byte(value), &text); err != nil {
			return fmt.Errorf("verification-keys of the policy: %w", err)
		}
	}
	ring, unusable, err := ima.ParseKeyring(text)
	if err != nil {
		return fmt.Errorf("verification-keys of the policy: %w", err)
	}
	for _, err := range unusable {
		c.note("verification-keys: left out %v", err)
	}
	c.members.set("verification-keys", quote(ring.With(keys...).String()))
	return nil
}

// members are those of a JSON object, in order, each value as JSON.
type members []member

type member struct{ name, value string }

func readMembers(text []byte) (m members, err error) {
	r := strictjson.NewReader(string(text), maxDepth)
	err = r.Object(func(name string) error {
		value, err := r.Raw()
		m = append(m, member{name, value})
		return err
	})
	if err == nil {
		err = r.End()
	}
	return m, err
}

// get is the JSON of a member; "" when there is none.
func (m members) get(name string) string {
	for _, e := range m {
		if e.name == name {
			return e.value
		}
	}
	return ""
}

func (m *members) set(name, value string) {
	if i := slices.IndexFunc(*m, func(e member) bool { return e.name == name }); i >= 0 {
		(*m)[i].value = value
		return
	}
	*m = append(*m, member{name, value})
}

func (m members) json() string {
	var b strings.Builder
	for i, e := range m {
		b.WriteString(separator(i, "{"))
		b.WriteString(quote(e.name) + ": " + e.value)
	}
	if len(m) == 0 {
		b.WriteString("{")
	}
	b.WriteString("}")
	return b.String()
}

const defaultIMA = `{"ignored_keyrings": [], "log_hash_alg": "sha1", "dm_policy": null}`

// defaults are the members of a policy that accepts nothing, in the usual order.
func defaults(generator int, now time.Time) members {
	meta := `{"version": ` + strconv.Itoa(currentVersion) + `, "generator": ` + strconv.Itoa(generator) +
		`, "timestamp": ` + quote(now.Format("2006-01-02 15:04:05.000000")) + `}`
	return members{
		{"meta", meta}, {"release", "0"}, {"digests", "{}"}, {"excludes", "[]"}, {"keyrings", "{}"}, {"ima", defaultIMA},
		{"ima-buf", "{}"}, {"verification-keys", `""`},
	}
}

// truthy reports whether a JSON value is there and neither empty nor zero: in old files those stand for the default.
func truthy(value string) bool {
	if len(value) > 64 {
		return true
	}
	switch strings.Join(strings.Fields(value), "") {
	case "", "null", "false", "0", "0.0", `""`, "[]", "{}":
		return false
	}
	return true
}

// digestLists are names with their digests, in the order of their first mention.
type digestLists struct {
	names   []string
	digests map[string][]string
}

func newDigestLists() *digestLists { return &digestLists{digests: map[string][]string{}} }

// add adds a digest, without the name of its algorithm that some tools wrote before it.
func (l *digestLists) add(name, digest string) {
	if alg, digits, named := strings.Cut(digest, ":"); named && slices.Contains(digestAlgorithms, alg) {
		digest = digits
	}
	if _, known := l.digests[name]; !known {
		l.names = append(l.names, name)
	}
	l.digests[name] = append(l.digests[name], strings.ToLower(digest))
}

var digestAlgorithms = []string{"sha1", "sha256", "sha384", "sha512", "sm3_256"}

func (l *digestLists) json() string {
	var b strings.Builder
	b.WriteString("{")
	for i, name := range l.names {
		b.WriteString(separator(i, "") + quote(name) + ": " + quoteList(l.digests[name]))
	}
	b.WriteString("}")
	return b.String()
}

// separator stands before the element i of a list or object, first before the first.
func separator(i int, first string) string {
	if i == 0 {
		return first
	}
	return ", "
}

func quoteList(list []string) string {
	var b strings.Builder
	b.WriteString("[")
	for i, s := range list {
		b.WriteString(separator(i, "") + quote(s))
	}
	b.WriteString("]")
	return b.String()
}

// quote writes a string as JSON, and what is not UTF-8 in it as U+FFFD.
func quote(s string) string {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	if err := e.Encode(s); err != nil {
		panic("policy: string cannot be encoded: " + err.Error()) // every string can
	}
	return strings.TrimSuffix(b.String(), "\n")
}

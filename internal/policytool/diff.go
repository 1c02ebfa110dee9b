package policytool

import (
	"bufio"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"iter"
	"maps"
	"slices"

	"keylime/ima"
)

// diffRequest is what `diff` is asked for.
type diffRequest struct {
	files []string
	json  bool
}

func diffCommand() command {
	return command{
		path:      "diff",
		brief:     "say what a new runtime policy adds, drops and changes",
		arguments: "OLD NEW",
		about: "Compares what two runtime policies accept: the order of lists, timestamps and releases make no difference.\n" +
			"Exits with 1 when they differ.\n" +
			"The lines: what it is about, + added or - dropped, the name, the digest. JSON has for each part \"added\", \"removed\" and,\n" +
			"of names that both list, \"changed\".",
		examples: []string{
			"keylime policy diff policy.json new-policy.json",
			"keylime policy diff --json policy.json new-policy.json",
		},
		prepare: func(stdout io.Writer, _ *screen) call {
			r := &diffRequest{}
			return call{loose: &r.files, options: []option{
				{"json", "", "", "", "print JSON", on(&r.json)},
			}, run: func(context.Context) error { return r.run(stdout) }}
		},
	}
}

func (r *diffRequest) run(stdout io.Writer) error {
	if err := arguments(r.files, 2, 2, "two policies"); err != nil {
		return usageError("policy diff", "%w", err)
	}
	old, err := openRuntime(r.files[0])
	if err != nil {
		return err
	}
	next, err := openRuntime(r.files[1])
	if err != nil {
		return err
	}
	d, err := compare(old, next)
	if err != nil {
		return err
	}
	if r.json {
		err = printJSON(stdout, d)
	} else {
		err = d.print(stdout)
	}
	if err == nil && !d.Equal {
		err = errDiffers
	}
	return err
}

// errDiffers asks for exit status 1; what there is to say is printed already.
var errDiffers = &commandError{errors.New(""), 1}

// difference is what one policy has and the other has not.
type difference struct {
	Equal    bool       `json:"equal"`
	Digests  nameChange `json:"digests"`
	Keyrings nameChange `json:"keyrings"`
	Buffers  nameChange `json:"ima-buf"`
	Excludes listChange `json:"excludes"`
	Ignored  listChange `json:"ignored_keyrings"`
	Keys     listChange `json:"verification-keys"`
	LogHash  listChange `json:"log_hash_alg"`
	Devices  listChange `json:"dm_policy"` // by digest
	// Generator matters only for what it says of a policy: that there is none, or one that asks for PCR 10.
	Generator listChange `json:"generator"`
}

// listChange is what a new list has more and less than an old one.
type listChange struct {
	Added   []string `json:"added"`
	Removed []string `json:"removed"`
}

func (c listChange) empty() bool { return len(c.Added) == 0 && len(c.Removed) == 0 }

// nameChange is the names that only the new policy lists, those that only the old one lists, with their digests, and
// those that both list with other digests.
type nameChange struct {
	Added   map[string][]string   `json:"added"`
	Removed map[string][]string   `json:"removed"`
	Changed map[string]listChange `json:"changed"`
}

func (c nameChange) empty() bool {
	return len(c.Added) == 0 && len(c.Removed) == 0 && len(c.Changed) == 0
}

func compare(old, next *runtimePolicy) (*difference, error) {
	oldKeys, err := keyNames(old)
	if err != nil {
		return nil, err
	}
	nextKeys, err := keyNames(next)
	if err != nil {
		return nil, err
	}
	d := &difference{
		Digests:   compareNames(hexed(old.parts.digests.Sorted()), hexed(next.parts.digests.Sorted())),
		Keyrings:  compareNames(sorted(old.parts.keyrings), sorted(next.parts.keyrings)),
		Buffers:   compareNames(sorted(old.parts.buffers), sorted(next.parts.buffers)),
		Excludes:  compareLists(old.parts.excludes, next.parts.excludes),
		Ignored:   compareLists(old.parts.ignored, next.parts.ignored),
		Keys:      compareLists(oldKeys, nextKeys),
		LogHash:   compareLists([]string{old.parts.logHash}, []string{next.parts.logHash}),
		Devices:   compareLists(devicePolicy(old), devicePolicy(next)),
		Generator: compareLists([]string{fmt.Sprint(old.compiled.Generator())}, []string{fmt.Sprint(next.compiled.Generator())}),
	}
	d.Equal = d.Digests.empty() && d.Keyrings.empty() && d.Buffers.empty() && d.Excludes.empty() && d.Ignored.empty() && d.Keys.empty() &&
		d.LogHash.empty() && d.Devices.empty() && d.Generator.empty()
	return d, nil
}

// devicePolicy is the digest of the policy of device-mapper devices, if there is one.
func devicePolicy(p *runtimePolicy) []string {
	if devices := p.compiled.DeviceMapper(); devices != nil {
		return []string{devices.Digest()}
	}
	return nil
}

// keyNames are the keys for file signatures, by their ids and SHA-256 fingerprints.
func keyNames(p *runtimePolicy) ([]string, error) {
	ring, unusable, err := ima.ParseKeyring(p.parts.keys)
	if err != nil {
		return nil, fmt.Errorf("%s: verification-keys: %w", p.name, err)
	}
	names := []string{}
	for _, k := range ring.Keys() {
		names = append(names, keyName(k))
	}
	for _, u := range unusable {
		names = append(names, "unusable: "+u.Error())
	}
	return distinct(names), nil
}

func keyName(k *ima.Key) string {
	return fmt.Sprintf("0x%08x sha256:%x", k.ID(), sha256.Sum256(k.SPKI()))
}

// compareLists compares sorted lists.
func compareLists(old, next []string) listChange {
	c := listChange{Added: []string{}, Removed: []string{}}
	for len(old) > 0 || len(next) > 0 {
		switch {
		case len(old) == 0 || len(next) > 0 && next[0] < old[0]:
			c.Added = append(c.Added, next[0])
			next = next[1:]
		case len(next) == 0 || old[0] < next[0]:
			c.Removed = append(c.Removed, old[0])
			old = old[1:]
		default:
			old, next = old[1:], next[1:]
		}
	}
	return c
}

// compareNames compares two tables, both in the order of their names.
func compareNames(old, next iter.Seq2[string, []string]) nameChange {
	c := nameChange{map[string][]string{}, map[string][]string{}, map[string]listChange{}}
	nextOld, stopOld := iter.Pull2(old)
	defer stopOld()
	nextNew, stopNew := iter.Pull2(next)
	defer stopNew()
	oldName, oldDigests, hasOld := nextOld()
	newName, newDigests, hasNew := nextNew()
	for hasOld || hasNew {
		switch {
		case !hasOld || hasNew && newName < oldName:
			c.Added[newName] = slices.Clone(newDigests)
			newName, newDigests, hasNew = nextNew()
		case !hasNew || oldName < newName:
			c.Removed[oldName] = slices.Clone(oldDigests)
			oldName, oldDigests, hasOld = nextOld()
		default:
			if change := compareLists(distinct(oldDigests), distinct(newDigests)); !change.empty() {
				c.Changed[oldName] = change
			}
			oldName, oldDigests, hasOld = nextOld()
			newName, newDigests, hasNew = nextNew()
		}
	}
	return c
}

// print shows the difference as lines that grep can tell apart, and counts at the end.
func (d *difference) print(w io.Writer) error {
	out := bufio.NewWriter(w)
	for _, part := range []struct {
		title  string
		change nameChange
	}{{"digests", d.Digests}, {"keyrings", d.Keyrings}, {"ima-buf", d.Buffers}} {
		part.change.print(out, part.title)
	}
	for _, part := range []struct {
		title  string
		change listChange
	}{
		{"excludes", d.Excludes}, {"ignored_keyrings", d.Ignored}, {"verification-keys", d.Keys}, {"log_hash_alg", d.LogHash},
		{"dm_policy", d.Devices}, {"generator", d.Generator},
	} {
		part.change.print(out, part.title)
	}
	if d.Equal {
		fmt.Fprintln(out, "no difference")
	} else {
		fmt.Fprintf(out, "%d files added, %d dropped, %d changed\n", len(d.Digests.Added), len(d.Digests.Removed), len(d.Digests.Changed))
	}
	return out.Flush()
}

func (c nameChange) print(out io.Writer, title string) {
	all := map[string]listChange{}
	for name, digests := range c.Added {
		all[name] = listChange{Added: digests}
	}
	for name, digests := range c.Removed {
		all[name] = listChange{Removed: digests}
	}
	for name, change := range c.Changed {
		all[name] = change
	}
	for _, name := range slices.Sorted(maps.Keys(all)) {
		for _, digest := range all[name].Removed {
			fmt.Fprintln(out, title, "-", Printable(name), digest)
		}
		for _, digest := range all[name].Added {
			fmt.Fprintln(out, title, "+", Printable(name), digest)
		}
	}
}

func (c listChange) print(out io.Writer, title string) {
	for _, v := range c.Removed {
		fmt.Fprintln(out, title, "-", Printable(v))
	}
	for _, v := range c.Added {
		fmt.Fprintln(out, title, "+", Printable(v))
	}
}

// printJSON prints a value as one indented document.
func printJSON(w io.Writer, v any) error {
	e := json.NewEncoder(w)
	e.SetEscapeHTML(false) // paths stay readable
	e.SetIndent("", "  ")
	return e.Encode(v)
}

package policy

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"keylime/ima/dm"
	"keylime/internal/strictjson"
)

// DeviceMapper is a compiled "dm_policy": which devices a machine may have, made of what, and what may happen to them.
// It is immutable and safe for concurrent use.
type DeviceMapper struct {
	digest  string // of its text
	matchOn string // "name" or "uuid": what devices are told by
	rules   []dmRule
}

// dmRule is what is allowed for the devices that it matches.
type dmRule struct {
	name           string
	required       bool
	resumeRequired bool
	multipleLoads  bool
	removal, clear bool
	newName        dmMatch
	newUUID        dmMatch
	key            *regexp.Regexp // of the device's name or uuid
	metadata       []dmNamed      // name, uuid, major, minor, minor_count, num_targets
	numTargets     dmMatch
	targets        [][]dmNamed
}

// dmNamed is what an attribute must be.
type dmNamed struct {
	name  string
	match dmMatch
}

// dmMatch is what a value must be: anything, true or false in words, a number, or text that an expression matches as a
// whole. Of other types none is right.
type dmMatch struct {
	raw     string // the JSON
	truth   *bool
	number  *int64
	pattern *regexp.Regexp
}

func (m dmMatch) any() bool { return m.raw == "null" }

// matches judges a value; an absent one is only anything.
func (m dmMatch) matches(value string, present bool) bool {
	switch {
	case m.any():
		return true
	case !present:
		return false
	case m.truth != nil:
		word := strings.ToLower(value)
		if *m.truth {
			return slices.Contains([]string{"y", "yes", "t", "true", "on", "1"}, word)
		}
		return slices.Contains([]string{"n", "no", "f", "false", "off", "0"}, word)
	case m.number != nil:
		n, err := strconv.ParseInt(value, 10, 64)
		return err == nil && n == *m.number
	case m.pattern != nil:
		return m.pattern.MatchString(value)
	}
	return false
}

// Digest is the hex SHA-256 of the policy's text.
func (p *DeviceMapper) Digest() string { return p.digest }

func (p *DeviceMapper) keyOf(d dm.Device) string {
	if p.matchOn == "uuid" {
		return d.UUID
	}
	return d.Name
}

func (p *DeviceMapper) rule(name string) *dmRule {
	for i := range p.rules {
		if p.rules[i].name == name {
			return &p.rules[i]
		}
	}
	return nil
}

// Limits on a dm_policy: an attacker cannot write one, but each device is compared with it.
const (
	maxDMRules   = 1024
	maxDMTargets = 4096
	maxDMName    = 256 // of a rule: it is part of each device's state
)

var dmMetadata = []string{"name", "uuid", "major", "minor", "minor_count", "num_targets"}

// compileDeviceMapper compiles the JSON of a dm_policy. An error says where in it the fault is.
func compileDeviceMapper(text string) (*DeviceMapper, error) {
	var top struct {
		Version *int            `json:"version"`
		MatchOn *string         `json:"match_on"`
		Rules   json.RawMessage `json:"rules"`
	}
	if err := dmObject(text, &top); err != nil {
		return nil, err
	}
	switch {
	case top.Version == nil || *top.Version != 1:
		return nil, fmt.Errorf("'version' must be 1")
	case top.MatchOn == nil || *top.MatchOn != "name" && *top.MatchOn != "uuid":
		return nil, fmt.Errorf("'match_on' must be 'name' or 'uuid'")
	}
	rules, err := readMembers(top.Rules)
	if err != nil {
		return nil, fmt.Errorf("'rules': %w", err)
	}
	if len(rules) > maxDMRules {
		return nil, fmt.Errorf("'rules' has %d rules, at most %d are allowed", len(rules), maxDMRules)
	}
	sum := sha256.Sum256([]byte(text))
	p := &DeviceMapper{digest: hex.EncodeToString(sum[:]), matchOn: *top.MatchOn}
	for _, m := range rules {
		c := dmCompiler{matchOn: p.matchOn}
		if len(m.name) > maxDMName {
			return nil, fmt.Errorf("rule %q: the name exceeds %d bytes", clipText(m.name), maxDMName)
		}
		r, err := c.rule(m.value)
		if err != nil {
			return nil, fmt.Errorf("rule %q: %w", clipText(m.name), err)
		}
		r.name = strings.Clone(m.name)
		p.rules = append(p.rules, r)
	}
	return p, nil
}

// dmObject decodes an object; names that nobody knows are mistakes.
func dmObject(text string, into any) error {
	d := json.NewDecoder(strings.NewReader(text))
	d.DisallowUnknownFields()
	return d.Decode(into) // the whole policy is strict JSON: nothing follows
}

type dmCompiler struct{ matchOn string }

func (c dmCompiler) rule(text string) (dmRule, error) {
	var in struct {
		Required       *bool `json:"required"`
		ResumeRequired *bool `json:"device_resume_required"`
		AllowClear     *bool `json:"allow_clear"`
		Rename         *struct {
			Name json.RawMessage `json:"valid_name"`
			UUID json.RawMessage `json:"valid_uuid"`
		} `json:"device_rename"`
		Remove *struct {
			Allow *bool `json:"allow_removal"`
		} `json:"device_remove"`
		Load json.RawMessage `json:"table_load"`
	}
	if err := dmObject(text, &in); err != nil {
		return dmRule{}, err
	}
	if in.Required == nil || in.ResumeRequired == nil || in.AllowClear == nil || in.Rename == nil || in.Remove == nil ||
		in.Remove.Allow == nil || in.Load == nil {
		return dmRule{}, fmt.Errorf("want 'required', 'device_resume_required', 'device_rename', 'device_remove' with 'allow_removal', 'allow_clear' and 'table_load'")
	}
	r := dmRule{required: *in.Required, resumeRequired: *in.ResumeRequired, clear: *in.AllowClear, removal: *in.Remove.Allow}
	var err error
	if r.newName, err = dmMatchOf(string(in.Rename.Name)); err != nil {
		return r, fmt.Errorf("'valid_name': %w", err)
	}
	if r.newUUID, err = dmMatchOf(string(in.Rename.UUID)); err != nil {
		return r, fmt.Errorf("'valid_uuid': %w", err)
	}
	if err := c.tableLoad(&r, in.Load); err != nil {
		return r, fmt.Errorf("'table_load': %w", err)
	}
	return r, nil
}

// tableLoad compiles what tables the rule's devices may have.
func (c dmCompiler) tableLoad(r *dmRule, text []byte) error {
	load, err := readMembers(text)
	if err != nil {
		return err
	}
	for _, m := range load {
		if !slices.Contains(dmMetadata, m.name) && m.name != "allow_multiple_loads" && m.name != "targets" {
			return fmt.Errorf("unknown member %q", clipText(m.name))
		}
	}
	for _, name := range dmMetadata {
		match, err := dmMatchOf(load.get(name))
		if err != nil {
			return fmt.Errorf("'%s': %w", name, err)
		}
		r.metadata = append(r.metadata, dmNamed{name, match})
		switch name {
		case c.matchOn:
			if r.key = match.pattern; r.key == nil {
				return fmt.Errorf("'%s' is what rules are chosen by ('match_on'), and must be an expression", name)
			}
		case "num_targets":
			r.numTargets = match
		}
	}
	multiple := load.get("allow_multiple_loads")
	if multiple != "true" && multiple != "false" {
		return fmt.Errorf("'allow_multiple_loads' must be true or false")
	}
	r.multipleLoads = multiple == "true"
	r.targets, err = dmTargets(load.get("targets"))
	return err
}

func dmTargets(text string) (targets [][]dmNamed, err error) {
	in := strictjson.NewReader(text, maxDepth)
	err = in.Array(func() error {
		raw, err := in.Raw()
		if err != nil {
			return err
		}
		attributes, err := readMembers([]byte(raw))
		if err != nil {
			return err
		}
		if len(targets) == maxDMTargets {
			return fmt.Errorf("more than %d targets", maxDMTargets)
		}
		var target []dmNamed
		for _, a := range attributes {
			match, err := dmMatchOf(a.value)
			if err != nil {
				return fmt.Errorf("%q: %w", clipText(a.name), err)
			}
			target = append(target, dmNamed{strings.Clone(a.name), match})
		}
		targets = append(targets, target)
		return nil
	})
	if err != nil {
		err = fmt.Errorf("'targets': %w", err)
	}
	return targets, err
}

// dmMatchOf compiles the JSON of what a value must be. A type that can match nothing is a mistake.
func dmMatchOf(raw string) (m dmMatch, err error) {
	m.raw = strings.Clone(raw)
	switch raw {
	case "":
		return m, fmt.Errorf("is missing; null stands for any value")
	case "null":
		return m, nil
	case "true", "false":
		truth := raw == "true"
		m.truth = &truth
		return m, nil
	}
	if raw[0] == '"' {
		var pattern string
		if err := json.Unmarshal([]byte(raw), &pattern); err != nil {
			return m, err
		}
		m.pattern, err = compileWhole(pattern)
		return m, err
	}
	n, err := strconv.ParseInt(raw, 10, 64)
	if err != nil {
		return m, fmt.Errorf("%s is neither null, true, false, a whole number nor a string", clipText(raw))
	}
	m.number = &n
	return m, nil
}

// compileWhole compiles a pattern in Python's syntax that must match all of a text, as re.fullmatch does.
func compileWhole(pattern string) (*regexp.Regexp, error) {
	translated, err := translatePattern(pattern)
	if err != nil {
		return nil, err
	}
	return regexp.Compile(`\A(?:` + translated + `)\z`)
}

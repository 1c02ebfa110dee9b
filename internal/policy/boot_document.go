package policy

import (
	"encoding/json"
	"fmt"
	"slices"
	"strconv"

	"keylime/internal/uefi"
	"keylime/tpm"
)

// A document of rules (docs/measured-boot.md) says for each kind of event, a PCR and a type, what is accepted, and then
// what must hold of the events together. bootDocument is its compiled form.
type bootDocument struct {
	relevant tpm.Mask
	events   map[eventKind]int // into rules
	rules    []bootRule
	finally  bootRule // test nil: none
	lists    []string // collected, by index
	limits   int      // tests that run a limited number of times
}

type eventKind struct {
	pcr  int
	kind string
}

type bootRule struct {
	BootRule
	test bootTest
}

// bootFormatField marks a document of rules, with the version of its form.
const (
	bootFormatField = "keylime_boot_rules"
	bootFormat      = 1
)

// ownReference is the reference state that a document of rules carries itself.
func ownReference(document uefi.Object) (uefi.Object, error) {
	tree, ok := document.Get("reference")
	if !ok {
		return nil, nil
	}
	reference, ok := tree.(uefi.Object)
	if !ok {
		return nil, &Error{"measured boot policy: reference: want an object, not " + kindOf(tree)}
	}
	return reference, nil
}

// compileBootDocument compiles rules with the values that they refer to.
func compileBootDocument(document, reference uefi.Object) (*bootDocument, error) {
	c := bootCompiler{
		doc:       &bootDocument{events: map[eventKind]int{}},
		scope:     []binding{{value: reference}},
		operators: bootOperators(),
	}
	if err := c.document(document); err != nil {
		return nil, &Error{"measured boot policy: " + err.Error()}
	}
	return c.doc, nil
}

func (c *bootCompiler) document(document uefi.Object) error {
	known := []string{bootFormatField, "comment", "relevant_pcrs", "require", "reference", "events", "finally"}
	for _, f := range document {
		if !slices.Contains(known, f.Name) {
			return faultf("%q is not a field of a document of rules; want %q", clipText(f.Name), known)
		}
	}
	if version, err := fieldOf(document, bootFormatField, intOf); err != nil {
		return err
	} else if version != bootFormat {
		return within(bootFormatField, faultf("form %d is unknown, want %d", version, bootFormat))
	}
	if err := c.require(document); err != nil {
		return err
	}
	events, err := fieldOf(document, "events", listOf)
	if err != nil {
		return err
	}
	for i, rule := range events {
		if err := c.rule(rule); err != nil {
			return within("events"+index(i), err)
		}
	}
	if final, ok := document.Get("finally"); ok {
		if c.doc.finally, err = c.ruleTest(final); err != nil {
			return within("finally", err)
		}
	}
	return c.setRelevant(document)
}

// require holds the reference state to having some fields, used or not.
func (c *bootCompiler) require(document uefi.Object) error {
	tree, ok := document.Get("require")
	if !ok {
		return nil
	}
	names, err := listOf(tree)
	if err != nil {
		return within("require", err)
	}
	for i, entry := range names {
		name, err := stringOf(entry)
		if err != nil {
			return within("require"+index(i), err)
		}
		if _, err := c.lookup(name); err != nil {
			return err
		}
	}
	return nil
}

// setRelevant takes the PCRs that must be quoted. Without the field they are all of measured boot; with it no rule may
// name others, whose events nothing would prove.
func (c *bootCompiler) setRelevant(document uefi.Object) error {
	var named tpm.Mask
	for kind := range c.doc.events {
		named = named.With(kind.pcr)
	}
	c.doc.relevant = BootPCRs
	tree, ok := document.Get("relevant_pcrs")
	if !ok {
		return nil
	}
	relevant, err := pcrSetOf(tree)
	if err != nil {
		return within("relevant_pcrs", err)
	}
	if relevant == 0 {
		return within("relevant_pcrs", faultf("want at least one PCR"))
	}
	if others := named &^ relevant; others != 0 {
		return within("relevant_pcrs", faultf("rules name PCRs %v besides", others.PCRs()))
	}
	c.doc.relevant = relevant
	return nil
}

// rule compiles one member of "events".
func (c *bootCompiler) rule(tree any) error {
	pcrs, err := fieldOf(tree, "pcrs", pcrSetOf)
	if err != nil {
		return err
	}
	types, err := fieldOf(tree, "types", listOf)
	if err != nil {
		return err
	}
	rule, err := c.ruleTest(tree, "pcrs", "types")
	if err != nil {
		return err
	}
	rule.PCRs = pcrs.PCRs()
	number := len(c.doc.rules)
	for i, entry := range types {
		kind, err := eventTypeOf(entry)
		if err != nil {
			return within("types"+index(i), err)
		}
		rule.Types = append(rule.Types, kind)
		for _, pcr := range rule.PCRs {
			key := eventKind{pcr, kind}
			if _, twice := c.doc.events[key]; twice {
				return faultf("PCR %d, %s has a rule already", pcr, kind)
			}
			c.doc.events[key] = number
		}
	}
	c.doc.rules = append(c.doc.rules, rule)
	return nil
}

// ruleTest compiles what events and finally have in common: a test and what it is for.
func (c *bootCompiler) ruleTest(tree any, others ...string) (bootRule, error) {
	var rule bootRule
	object, ok := tree.(uefi.Object)
	if !ok {
		return rule, faultf("want an object, not %s", kindOf(tree))
	}
	for _, f := range object {
		switch {
		case f.Name == "comment":
			comment, err := stringOf(f.Value)
			if err != nil {
				return rule, within("comment", err)
			}
			rule.Comment = comment
		case f.Name != "test" && !slices.Contains(others, f.Name):
			return rule, faultf("%q is not a field of a rule", clipText(f.Name))
		}
	}
	test, err := fieldOf(tree, "test", c.test)
	if err != nil {
		return rule, err
	}
	if rule.Comment == "" {
		source, _ := object.Get("test")
		text, err := json.Marshal(source)
		if err != nil {
			return rule, faultf("%v", err)
		}
		rule.Comment = string(text)
	}
	rule.test = test
	return rule, nil
}

func (d *bootDocument) explain() []BootRule {
	list := make([]BootRule, 0, len(d.rules)+1)
	for _, rule := range d.rules {
		list = append(list, BootRule{slices.Clone(rule.PCRs), slices.Clone(rule.Types), rule.Comment})
	}
	if d.finally.test != nil {
		list = append(list, d.finally.BootRule)
	}
	return list
}

// judge says why a log is not accepted.
func (d *bootDocument) judge(p uefi.Proven) string {
	if missing := d.relevant &^ p.Mask(); missing != 0 {
		return fmt.Sprintf("the log is not proven for PCRs %v", missing.PCRs())
	}
	j := judging{runs: make([]int, d.limits), collected: make([][]any, len(d.lists))}
	for f := range p.Events() {
		kind := eventKind{f.PCR(), f.Type().String()}
		number, ok := d.events[kind]
		if !ok {
			return fmt.Sprintf("event %d (PCR %d, %s) is of a kind that no rule accepts", f.Number(), kind.pcr, kind.kind)
		}
		rule := d.rules[number]
		if reason := rule.test.why(&j, f); reason != "" {
			return fmt.Sprintf("event %d (PCR %d, %s): %s (rule: %s)", f.Number(), kind.pcr, kind.kind, reason, rule.Comment)
		}
	}
	if d.finally.test == nil {
		return ""
	}
	if reason := d.finally.test.why(&j, collection{d.lists, j.collected}); reason != "" {
		return fmt.Sprintf("events together: %s (rule: %s)", reason, d.finally.Comment)
	}
	return ""
}

// collection is the record of collected lists.
type collection struct {
	names []string
	lists [][]any
}

// Get returns a list by its name.
func (c collection) Get(name string) (any, bool) {
	i := slices.Index(c.names, name)
	if i < 0 {
		return nil, false
	}
	return c.lists[i], true
}

// ruleNumber is a count of runs in a rule.
func ruleNumber(tree any) (int, error) {
	n, err := intOf(tree)
	if err != nil {
		return 0, err
	}
	if n == 0 || n > maxBootRuns {
		return 0, faultf("%s is not a number from 1 to %d", strconv.FormatUint(n, 10), maxBootRuns)
	}
	return int(n), nil
}

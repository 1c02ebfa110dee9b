package policy

import (
	"crypto/sha256"
	"embed"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"slices"

	"keylime/internal/uefi"
	"keylime/tpm"
)

// BootPCRs are those that firmware, boot loader and kernel extend: 0 to 9 and 11 to 15.
const BootPCRs tpm.Mask = 0xFBFF

// The engines: what a verifier judges boots by, given an agent's reference state. Their rules are documents, see
// bootrules and docs/measured-boot.md.
const (
	BootAcceptAll = "accept-all" // the log has to replay to the quoted PCRs, nothing more
	BootRejectAll = "reject-all"
	// BootExample compares firmware, keys, boot loader, kernel and ramdisk with the reference state.
	BootExample = "example"
	// BootExampleRelaxed is BootExample for machines whose firmware measures more than virtual machines' does.
	BootExampleRelaxed = "example-relaxed"
	// BootRules is the name in events of a policy that brings its own rules.
	BootRules = "rules"
)

// BootEngines lists the engines by name.
func BootEngines() []string {
	return []string{BootAcceptAll, BootRejectAll, BootExample, BootExampleRelaxed}
}

//go:embed bootrules/*.json
var bootRules embed.FS

// Boot is a compiled measured-boot policy: rules and what they compare with. It is immutable and safe for concurrent
// use.
type Boot struct {
	engine string
	digest string
	rules  *bootDocument // nil for accept-all and reject-all
}

// CompileBoot compiles a measured-boot policy: a JSON object, which is a reference state for the engine, or a document
// with rules of its own (docs/measured-boot.md), which apply whatever the engine is, reject-all excepted. A policy that
// asks for nothing, "", "null" and "{}", is nil. Errors are *Error and name the place in the text; an unknown engine is
// an error of another kind.
func CompileBoot(engine string, text []byte) (*Boot, error) {
	if !slices.Contains(BootEngines(), engine) {
		return nil, fmt.Errorf("measured boot policy engine %q is unknown; the engines are %q", engine, BootEngines())
	}
	state, err := readBootText(text)
	if err != nil || len(state) == 0 {
		return nil, err
	}
	b := &Boot{engine: engine, digest: bootDigest(engine, nil, text)}
	_, own := state.Get(bootFormatField)
	switch {
	case engine == BootRejectAll || engine == BootAcceptAll && !own:
		return b, nil
	case own:
		b.engine = BootRules
		reference, err := ownReference(state)
		if err != nil {
			return nil, err
		}
		b.rules, err = compileBootDocument(state, reference)
		return bootOrError(b, err)
	}
	source, rules, err := builtinRules(engine)
	if err != nil {
		return nil, err
	}
	b.digest = bootDigest(engine, source, text)
	b.rules, err = compileBootDocument(rules, state)
	return bootOrError(b, err)
}

func bootOrError(b *Boot, err error) (*Boot, error) {
	if err != nil {
		return nil, err
	}
	return b, nil
}

// builtinRules reads the document of an engine.
func builtinRules(engine string) (text []byte, rules uefi.Object, err error) {
	if text, err = bootRules.ReadFile("bootrules/" + engine + ".json"); err == nil {
		rules, err = readBootText(text)
	}
	if err != nil {
		return nil, nil, fmt.Errorf("rules of measured boot policy engine %s: %w", engine, err)
	}
	return text, rules, nil
}

// bootDigest names a judgement: the engine, its rules and the policy's text.
func bootDigest(engine string, rules, text []byte) string {
	h := sha256.New()
	for _, part := range [][]byte{[]byte(engine), rules, text} {
		h.Write(binary.BigEndian.AppendUint64(nil, uint64(len(part))))
		h.Write(part)
	}
	return hex.EncodeToString(h.Sum(nil))
}

// Engine is the name of the engine whose rules apply, BootRules for a policy's own.
func (b *Boot) Engine() string { return b.engine }

// Digest is a hex SHA-256 of the engine, its rules and the text: policies with the same one judge alike.
func (b *Boot) Digest() string { return b.digest }

// Mask is the set of PCRs that must be quoted and explained by the event log.
func (b *Boot) Mask() tpm.Mask {
	if b.rules == nil {
		return BootPCRs
	}
	return b.rules.relevant
}

// NeedsLog reports whether the rules read events, so that without a log there is nothing to judge.
func (b *Boot) NeedsLog() bool { return b.rules != nil }

// Judge says why a boot is not accepted; "" when it is. The reason names the event and the rule.
func (b *Boot) Judge(p uefi.Proven) (reason string) {
	switch {
	case b.engine == BootRejectAll:
		return "reject all"
	case b.rules == nil:
		return ""
	}
	return b.rules.judge(p)
}

// BootRule is one rule of a policy, for people.
type BootRule struct {
	PCRs    []int
	Types   []string
	Comment string
}

// Explain lists the rules in order. Events that no rule names are refused. A rule without comment shows its test as it
// stands in the document. The last rule, without PCRs, is the one on all events together.
func (b *Boot) Explain() []BootRule {
	switch {
	case b.engine == BootRejectAll:
		return []BootRule{{Comment: "No boot is accepted."}}
	case b.rules == nil:
		return []BootRule{{PCRs: BootPCRs.PCRs(), Comment: "The event log explains the quoted PCRs; what it says is not judged."}}
	}
	return b.rules.explain()
}

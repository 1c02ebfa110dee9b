package pki

import (
	"fmt"
	"slices"
	"strings"
)

// Rule is one thing that the path of an EK certificate must satisfy besides its signatures and names. Rules can be
// switched off one by one; their names are those of the option ek_rules.
type Rule string

const (
	RuleValidity Rule = "validity"  // the EK certificate, and each certificate that the agent sent, is in date
	RuleCA       Rule = "ca"        // issuers are CAs (basicConstraints), within their path length
	RuleKeyUsage Rule = "key_usage" // issuers may sign certificates (keyUsage), where it is present
	RuleEKUsage  Rule = "eku"       // the EK certificate is for endorsement (2.23.133.8.1), where an extended key usage is present
	RuleCritical Rule = "critical"  // every critical extension is understood

	RuleAnchorValidity Rule = "anchor_validity" // certificates of the store are in date too
	RuleRoot           Rule = "root"            // the path ends at a self-signed certificate of the store
	RuleSHA1           Rule = "sha1"            // no signature rests on SHA-1
)

// allRules in the order of the documentation.
var allRules = []Rule{RuleValidity, RuleCA, RuleKeyUsage, RuleEKUsage, RuleCritical, RuleAnchorValidity, RuleRoot, RuleSHA1}

// Rules is a set of rules.
type Rules map[Rule]bool

// DefaultRules are the rules that hold unless the configuration says otherwise. A certificate of the store is trusted
// because it was put there, so that its dates and its own issuer do not count.
func DefaultRules() Rules {
	return Rules{RuleValidity: true, RuleCA: true, RuleKeyUsage: true, RuleEKUsage: true, RuleCritical: true}
}

// ParseRules reads the names of rules. "strict" stands for all of them.
func ParseRules(names []string) (Rules, error) {
	rules := Rules{}
	for _, name := range names {
		switch {
		case name == "strict":
			for _, r := range allRules {
				rules[r] = true
			}
		case slices.Contains(allRules, Rule(name)):
			rules[Rule(name)] = true
		default:
			known := make([]string, len(allRules))
			for i, r := range allRules {
				known[i] = string(r)
			}
			return nil, fmt.Errorf("%q is not one of strict, %s", name, strings.Join(known, ", "))
		}
	}
	return rules, nil
}

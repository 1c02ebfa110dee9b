package pki

import (
	"crypto"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"
)

// Path is how a certificate is trusted: it, its issuer, the issuer's issuer and so on up to one of the store.
type Path struct {
	Certificates []*Certificate
	// Notes are facts that an operator should know and that the rules in force let pass.
	Notes []string
}

// Limits of path building; the other certificates come from the agent.
const (
	maxPath       = 6
	maxChain      = 16
	maxSignatures = 64 // verifications for one path
)

// VerifyEK checks an endorsement key certificate: a path of signatures leads to a certificate of the store, and each
// step satisfies the rules. chain are further certificates that the agent sent, untrusted. A certificate of the store
// ends the path, be it a root or an intermediate. The error says what is wrong with the path that got furthest.
func (s *Store) VerifyEK(leaf *Certificate, chain []*Certificate, now time.Time, rules Rules) (Path, error) {
	return s.verify(leaf, chain, now, rules)
}

// VerifyDevice is VerifyEK for the certificates of IAK and IDevID, which have other extended key usages.
func (s *Store) VerifyDevice(leaf *Certificate, chain []*Certificate, now time.Time, rules Rules) (Path, error) {
	rules = maps.Clone(rules)
	delete(rules, RuleEKUsage)
	return s.verify(leaf, chain, now, rules)
}

func (s *Store) verify(leaf *Certificate, chain []*Certificate, now time.Time, rules Rules) (Path, error) {
	if len(chain) > maxChain {
		return Path{}, fmt.Errorf("%d further certificates are more than the %d allowed", len(chain), maxChain)
	}
	b := pathBuilder{store: s, chain: chain, now: now, rules: rules, failure: errors.New("no path leads to the certificate store")}
	if err := b.checkLeaf(leaf); err != nil {
		return Path{}, err
	}
	if path := b.extend([]*Certificate{leaf}); path != nil {
		return Path{Certificates: path, Notes: b.notes(path)}, nil
	}
	return Path{}, b.failure
}

// pathBuilder searches depth first.
type pathBuilder struct {
	store      *Store
	chain      []*Certificate
	now        time.Time
	rules      Rules
	signatures int
	failure    error // of the longest path so far
	reached    int
}

// fail keeps the error that says most: the one of the longest path.
func (b *pathBuilder) fail(length int, err error) {
	if length > b.reached {
		b.failure, b.reached = err, length
	}
}

// extend looks for an issuer of the path's last certificate, and on from there. nil = there is no good path.
func (b *pathBuilder) extend(path []*Certificate) []*Certificate {
	last := path[len(path)-1]
	if len(path) >= maxPath {
		b.fail(2*len(path), fmt.Errorf("the path to a trusted certificate is longer than %d", maxPath))
		return nil
	}
	candidates := b.issuers(last, path)
	switch {
	case len(candidates) == 0 && b.store.holds(last):
		b.fail(2*len(path), ruleError(RuleRoot, last, "is no root, and its issuer %q is not in the certificate store", last.Issuer))
	case len(candidates) == 0:
		b.fail(2*len(path), fmt.Errorf("issuer %q of %q is not in the certificate store", last.Issuer, last.Subject))
	}
	for _, issuer := range candidates {
		if err := b.checkStep(path, issuer); err != nil {
			b.fail(2*len(path)+1, err)
			continue
		}
		longer := append(slices.Clip(path), issuer)
		if b.store.holds(issuer) && (!b.rules[RuleRoot] || issuer.selfSigned()) {
			return longer
		}
		if found := b.extend(longer); found != nil {
			return found
		}
	}
	return nil
}

// issuers are the certificates that c names as its issuer and that are not in the path yet, those of the store first.
func (b *pathBuilder) issuers(c *Certificate, path []*Certificate) (found []*Certificate) {
	if c.Issuer.key == "" {
		return nil
	}
	for _, other := range slices.Concat(b.store.bySubject[c.Issuer.key], b.chain) {
		if other.Subject.matches(c.Issuer) && !slices.Contains(path, other) {
			found = append(found, other)
		}
	}
	return found
}

func (b *pathBuilder) checkLeaf(c *Certificate) error {
	switch {
	case b.rules[RuleCA] && c.isCA:
		return ruleError(RuleCA, c, "is a CA's, not a TPM's")
	case b.rules[RuleEKUsage] && !c.allows(oidEKUsage):
		return ruleError(RuleEKUsage, c, "is not for an endorsement key (extended key usages %v)", c.usages)
	}
	return b.checkCommon(c, RuleValidity)
}

// checkStep checks that issuer issued the path's last certificate and may have.
func (b *pathBuilder) checkStep(path []*Certificate, issuer *Certificate) error {
	c := path[len(path)-1]
	switch {
	case b.rules[RuleCA] && !issuer.isCA:
		return ruleError(RuleCA, issuer, "is not a CA's")
	case b.rules[RuleCA] && issuer.maxPathLen >= 0 && len(path)-1 > issuer.maxPathLen:
		return ruleError(RuleCA, issuer, "allows %d CAs below it, the path has %d", issuer.maxPathLen, len(path)-1)
	case b.rules[RuleKeyUsage] && issuer.hasKeyUsage && !issuer.certSign:
		return ruleError(RuleKeyUsage, issuer, "may not sign certificates")
	case b.rules[RuleEKUsage] && !issuer.allows(oidEKUsage):
		return ruleError(RuleEKUsage, issuer, "may not issue endorsement key certificates")
	case b.rules[RuleSHA1] && c.algorithm.hash == crypto.SHA1:
		return ruleError(RuleSHA1, c, "is signed with SHA-1")
	}
	dates := RuleValidity
	if b.store.holds(issuer) {
		dates = RuleAnchorValidity
	}
	if err := b.checkCommon(issuer, dates); err != nil {
		return err
	}
	if b.signatures++; b.signatures > maxSignatures {
		return fmt.Errorf("no path was found within %d signatures", maxSignatures)
	}
	if err := c.checkSignature(issuer); err != nil {
		return fmt.Errorf("certificate %q is not signed by %q: %w", c.Subject, issuer.Subject, err)
	}
	return nil
}

// checkCommon checks what holds for every certificate of a path; dates is the rule that its dates fall under.
func (b *pathBuilder) checkCommon(c *Certificate, dates Rule) error {
	if b.rules[RuleCritical] && len(c.unknownCritical) > 0 {
		return ruleError(RuleCritical, c, "has critical extensions that are not known here: %v", c.unknownCritical)
	}
	if b.rules[dates] && !c.inDate(b.now) {
		return ruleError(dates, c, "%s", c.dates())
	}
	return nil
}

func (c *Certificate) inDate(now time.Time) bool {
	return !now.Before(c.NotBefore) && !now.After(c.NotAfter)
}

func (c *Certificate) dates() string {
	return fmt.Sprintf("is valid from %s to %s only", c.NotBefore.Format(time.DateOnly), c.NotAfter.Format(time.DateOnly))
}

// notes are what the rules in force let pass.
func (b *pathBuilder) notes(path []*Certificate) (notes []string) {
	for _, c := range path {
		if !c.inDate(b.now) {
			notes = append(notes, fmt.Sprintf("certificate %q %s", c.Subject, c.dates()))
		}
		if c.Malformed != nil {
			notes = append(notes, fmt.Sprintf("certificate %q is not strict DER: %v", c.Subject, c.Malformed))
		}
	}
	return notes
}

// ruleError names the rule, so that an operator knows what to switch off.
func ruleError(r Rule, c *Certificate, format string, args ...any) error {
	return fmt.Errorf("certificate %q %s (rule %s)", c.Subject, fmt.Sprintf(format, args...), r)
}

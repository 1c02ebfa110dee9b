package policy

import (
	"fmt"
	"regexp"
	"slices"
)

// Severity is one label of the configured order.
type Severity struct {
	Label   string
	Rank    int  // 0 is the lowest
	Highest bool // the last label of the order
}

// SeverityRule maps event ids (a regular expression that must match the whole id) to a label.
type SeverityRule struct {
	EventID string
	Label   string
}

// Labels assigns severities to event ids. It is immutable and safe for concurrent use.
type Labels struct {
	highest Severity
	rules   []severityRule
}

type severityRule struct {
	id       *regexp.Regexp
	severity Severity
}

// NewLabels compiles a severity order (low to high) and its rules; the first rule that matches wins, none means
// the highest label. Labels in rules must be of the order.
func NewLabels(order []string, rules []SeverityRule) (*Labels, error) {
	if len(order) == 0 {
		return nil, fmt.Errorf("severity labels: the list is empty; give at least one label, lowest first")
	}
	top := len(order) - 1
	l := &Labels{highest: Severity{order[top], top, true}}
	for i, label := range order {
		if label == "" || slices.Index(order, label) != i {
			return nil, fmt.Errorf("severity labels: label %q is empty or stands twice", label)
		}
	}
	for i, rule := range rules {
		rank := slices.Index(order, rule.Label)
		if rank < 0 {
			return nil, fmt.Errorf("severity policy: rule %d for %q: label %q is not one of %q", i+1, rule.EventID, rule.Label, order)
		}
		translated, err := translatePattern(rule.EventID)
		if err != nil {
			return nil, fmt.Errorf("severity policy: rule %d: event id %q: %w", i+1, rule.EventID, err)
		}
		id, err := regexp.Compile(`\A(?:` + translated + `)\z`)
		if err != nil {
			return nil, fmt.Errorf("severity policy: rule %d: event id %q: %w", i+1, rule.EventID, err)
		}
		l.rules = append(l.rules, severityRule{id, Severity{rule.Label, rank, rank == top}})
	}
	return l, nil
}

// DefaultLabels is Keylime's order, info to emergency, with every event at the highest.
func DefaultLabels() *Labels {
	return &Labels{highest: Severity{"emergency", 6, true}}
}

// For returns the severity of an event. An irrecoverable one always has the highest.
func (l *Labels) For(eventID string, recoverable bool) Severity {
	if !recoverable {
		return l.highest
	}
	for _, rule := range l.rules {
		if rule.id.MatchString(eventID) {
			return rule.severity
		}
	}
	return l.highest
}

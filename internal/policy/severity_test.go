package policy

import (
	"strings"
	"testing"
)

func TestSeverityOfEvents(t *testing.T) {
	t.Parallel()
	labels, err := NewLabels([]string{"info", "warning", "error"}, []SeverityRule{
		{`ima\.validation\..*`, "warning"},
		{`ima\..*`, "info"},
		{`pcr_validation`, "info"}, // must match the whole id, so it matches none
	})
	if err != nil {
		t.Fatal(err)
	}
	highest := Severity{"error", 2, true}
	for _, c := range []struct {
		event       string
		recoverable bool
		want        Severity
	}{
		{"ima.validation.ima_hash", true, Severity{"warning", 1, false}},
		{"ima.pcr_mismatch", true, Severity{"info", 0, false}},
		{"pcr_validation.missing_pcrs", true, highest},
		{"ima.validation.ima_hash", false, highest},
	} {
		if got := labels.For(c.event, c.recoverable); got != c.want {
			t.Errorf("%s: %+v, want %+v", c.event, got, c.want)
		}
	}
}

func TestDefaultSeverityIsTheHighest(t *testing.T) {
	t.Parallel()
	got := DefaultLabels().For("ima.pcr_mismatch", true)
	if want := (Severity{"emergency", 6, true}); got != want {
		t.Errorf("%+v, want %+v", got, want)
	}
}

// NT-97
func TestBadSeverityPolicyIsRefusedByName(t *testing.T) {
	t.Parallel()
	order := []string{"low", "high"}
	for _, c := range []struct {
		order []string
		rule  SeverityRule
		want  string
	}{
		{nil, SeverityRule{}, "the list is empty"},
		{[]string{"a", "a"}, SeverityRule{}, `label "a" is empty or stands twice`},
		{[]string{""}, SeverityRule{}, `label "" is empty`},
		{order, SeverityRule{".*", "hihg"}, `rule 1 for ".*": label "hihg" is not one of ["low" "high"]`},
		{order, SeverityRule{"(", "low"}, `rule 1: event id "(": missing ), unterminated group at position 0`},
		{order, SeverityRule{"a{2000}", "low"}, `rule 1: event id "a{2000}": error parsing regexp`},
	} {
		_, err := NewLabels(c.order, []SeverityRule{c.rule})
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%v %v: got %v, want %s", c.order, c.rule, err, c.want)
		}
	}
}

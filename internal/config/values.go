package config

import (
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"
)

// The constructors below write the default to the destination, so that building a role's table applies its defaults.

func text(p *string, def string) value {
	*p = def
	return &textValue{p, func(s string) (string, error) { return s, nil }, "a string"}
}

// oneOf takes one of a few words. An empty value asks for the default, as upgrade tools leave it in files.
func oneOf(p *string, def string, allowed ...string) value {
	*p = def
	return &textValue{p, func(s string) (string, error) {
		if s == "" {
			return def, nil
		}
		if !slices.Contains(allowed, s) {
			return "", fmt.Errorf("%q is not one of them", s)
		}
		return s, nil
	}, "one of " + strings.Join(allowed, ", ")}
}

// address takes an IPv4 or IPv6 address, or a host name.
func address(p *string, def string) value {
	*p = def
	return &textValue{p, parseAddress, "an IP address or host name"}
}

// webURL takes an absolute http or https URL, or nothing.
func webURL(p *string) value {
	*p = ""
	return &textValue{p, parseURL, "an http or https URL, or nothing"}
}

func secret(p *Secret, def Secret) value {
	*p = def
	return &secretValue{p}
}

func boolean(p *bool, def bool) value {
	*p = def
	return &boolValue{p}
}

func integer(p *int, def, min, max int) value {
	*p = def
	return &intValue{p, min, max}
}

// maxDuration keeps sums of durations far from overflow.
const maxDuration = 100 * 365 * 24 * time.Hour

func seconds(p *time.Duration, def time.Duration) value {
	*p = def
	return &durationValue{p, time.Second, "seconds"}
}

func millis(p *time.Duration, def time.Duration) value {
	*p = def
	return &durationValue{p, time.Millisecond, "milliseconds"}
}

func days(p *time.Duration, def int) value {
	*p = time.Duration(def) * 24 * time.Hour
	return &durationValue{p, 24 * time.Hour, "days"}
}

// list holds strings; in text sources it is a Python or JSON list, or words between commas.
func list(p *[]string, def ...string) value {
	*p = def
	return &listValue{p: p}
}

// words is list for the agent's grammar and for keywords such as default: words between commas, spaces or line
// breaks are accepted without brackets too.
func words(p *[]string, def ...string) value {
	*p = def
	return &listValue{p: p, spaces: true}
}

// commas is list without brackets: words between commas.
func commas(p *[]string) value {
	*p = nil
	return &listValue{p: p}
}

func severityRules(p *[]SeverityRule, def ...SeverityRule) value {
	*p = def
	return &severityValue{p}
}

type textValue struct {
	p     *string
	parse func(string) (string, error) // checks, and gives the normal form
	takes string
}

func (v *textValue) set(raw any) error {
	s, err := scalarText(raw)
	if err == nil {
		s, err = v.parse(s)
	}
	if err == nil {
		*v.p = s
	}
	return err
}

func (v *textValue) toml() string { return quote(*v.p) }
func (v *textValue) form() string { return v.takes }

type secretValue struct{ p *Secret }

func (v *secretValue) set(raw any) error {
	s, err := scalarText(raw)
	if err == nil {
		*v.p = Secret(s)
	}
	return err
}

func (v *secretValue) toml() string { return quote(string(*v.p)) }
func (v *secretValue) form() string { return "a string" }

type boolValue struct{ p *bool }

func (v *boolValue) set(raw any) error {
	switch x := raw.(type) {
	case bool:
		*v.p = x
		return nil
	case int64:
		raw = strconv.FormatInt(x, 10)
	}
	s, err := scalarText(raw)
	if err != nil {
		return err
	}
	switch strings.ToLower(s) {
	case "1", "yes", "true", "on":
		*v.p = true
	case "0", "no", "false", "off":
		*v.p = false
	default:
		return fmt.Errorf("%q is neither", s)
	}
	return nil
}

func (v *boolValue) toml() string { return strconv.FormatBool(*v.p) }
func (v *boolValue) form() string { return "true or false (yes/no, on/off, 1/0)" }

type intValue struct {
	p        *int
	min, max int
}

func (v *intValue) set(raw any) error {
	n, ok := raw.(int64)
	if !ok {
		s, err := scalarText(raw)
		if err != nil {
			return err
		}
		if n, err = strconv.ParseInt(s, 10, 64); err != nil {
			return fmt.Errorf("%q is not a whole number", s)
		}
	}
	if n < int64(v.min) || n > int64(v.max) {
		return fmt.Errorf("%d is out of range", n)
	}
	*v.p = int(n)
	return nil
}

func (v *intValue) toml() string { return strconv.Itoa(*v.p) }
func (v *intValue) form() string { return fmt.Sprintf("a whole number from %d to %d", v.min, v.max) }

type durationValue struct {
	p    *time.Duration
	unit time.Duration
	name string
}

func (v *durationValue) set(raw any) error {
	var f float64
	switch x := raw.(type) {
	case int64:
		f = float64(x)
	case float64:
		f = x
	default:
		s, err := scalarText(raw)
		if err != nil {
			return err
		}
		if f, err = strconv.ParseFloat(s, 64); err != nil {
			return fmt.Errorf("%q is not a number", s)
		}
	}
	d := f * float64(v.unit)
	if math.IsNaN(d) || d < 0 || d > float64(maxDuration) {
		return fmt.Errorf("%v is out of range", f)
	}
	*v.p = time.Duration(d)
	return nil
}

func (v *durationValue) toml() string {
	return strconv.FormatFloat(float64(*v.p)/float64(v.unit), 'f', -1, 64)
}

func (v *durationValue) form() string {
	return fmt.Sprintf("a number of %s from 0 to %d", v.name, maxDuration/v.unit)
}

type listValue struct {
	p      *[]string
	spaces bool // spaces separate bare words
}

func (v *listValue) set(raw any) error {
	if array, ok := raw.([]any); ok {
		return v.setArray(array)
	}
	s, ok := raw.(string)
	if !ok {
		return fmt.Errorf("%T is not a list", raw)
	}
	s = strings.TrimSpace(s)
	if strings.HasPrefix(s, "[") || strings.HasPrefix(s, "(") {
		parsed, err := parseLiteral(s)
		if err == nil {
			array, _ := parsed.([]any)
			return v.setArray(array)
		}
		if !bareBrackets(s, v.spaces) {
			return err
		}
		s = s[1 : len(s)-1]
	}
	*v.p = splitWords(unquoteWhole(s), v.spaces)
	return nil
}

func (v *listValue) setArray(array []any) error {
	var out []string // nil when empty, whatever the source
	for i, x := range array {
		s, ok := x.(string)
		if !ok {
			return fmt.Errorf("item %d is not a string", i+1)
		}
		out = append(out, strings.TrimSpace(s))
	}
	*v.p = out
	return nil
}

func (v *listValue) toml() string {
	quoted := make([]string, len(*v.p))
	for i, s := range *v.p {
		quoted[i] = quote(s)
	}
	return "[" + strings.Join(quoted, ", ") + "]"
}

func (v *listValue) form() string { return `a list of strings, such as ["a", "b"]` }

type severityValue struct{ p *[]SeverityRule }

func (v *severityValue) set(raw any) error {
	if s, ok := raw.(string); ok {
		parsed, err := parseLiteral(strings.TrimSpace(s))
		if err != nil {
			return err
		}
		raw = parsed
	}
	array, ok := raw.([]any)
	if !ok {
		return fmt.Errorf("%T is not a list", raw)
	}
	rules := make([]SeverityRule, len(array))
	for i, x := range array {
		rule, ok := x.(map[string]any)
		if !ok {
			return fmt.Errorf("item %d is not a table", i+1)
		}
		id, idOK := rule["event_id"].(string)
		label, labelOK := rule["severity_label"].(string)
		if !idOK || !labelOK || len(rule) != 2 {
			return fmt.Errorf("item %d has not exactly event_id and severity_label", i+1)
		}
		rules[i] = SeverityRule{EventID: id, SeverityLabel: label}
	}
	*v.p = rules
	return nil
}

func (v *severityValue) toml() string {
	rules := make([]string, len(*v.p))
	for i, r := range *v.p {
		rules[i] = fmt.Sprintf("{ event_id = %s, severity_label = %s }", quote(r.EventID), quote(r.SeverityLabel))
	}
	return "[" + strings.Join(rules, ", ") + "]"
}

func (v *severityValue) form() string {
	return `a list of rules, such as [{"event_id": "ima.*", "severity_label": "critical"}]`
}

// scalarText is raw as text, without the double quotes and blanks that Keylime's files put around scalars.
func scalarText(raw any) (string, error) {
	switch x := raw.(type) {
	case string:
		return trimQuotes(x), nil
	case int64:
		return strconv.FormatInt(x, 10), nil
	case float64:
		return strconv.FormatFloat(x, 'f', -1, 64), nil
	case bool:
		return strconv.FormatBool(x), nil
	}
	return "", fmt.Errorf("a list or table stands here")
}

// unquoteWhole removes quotes that enclose a whole list.
func unquoteWhole(s string) string {
	if n := len(s); n >= 2 && (s[0] == '"' || s[0] == '\'') && s[n-1] == s[0] && strings.Count(s, s[:1]) == 2 {
		return s[1 : n-1]
	}
	return s
}

func trimQuotes(s string) string { return strings.Trim(s, "\" \t\r\n") }

// quote writes a TOML basic string.
func quote(s string) string {
	var b strings.Builder
	b.WriteByte('"')
	for _, r := range s {
		switch {
		case r == '"' || r == '\\':
			b.WriteByte('\\')
			b.WriteRune(r)
		case r == '\n':
			b.WriteString(`\n`)
		case r == '\t':
			b.WriteString(`\t`)
		case r < 0x20 || r == 0x7f:
			fmt.Fprintf(&b, `\u%04X`, r)
		default:
			b.WriteRune(r)
		}
	}
	b.WriteByte('"')
	return b.String()
}

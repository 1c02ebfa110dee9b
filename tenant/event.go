package tenant

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strings"
)

// peopleEvent tells the last failure: which file, what was expected, what was there.
func (r agentReport) peopleEvent(s *screen) {
	v := r.verifier
	failing := v.AttestationStatus == "FAIL" || v.AttestationStatus == "TIMEOUT"
	name, t := "last failure", unsure
	if failing {
		name, t = "failure", bad
	}
	s.tinted(name, t, clean(*v.LastEventID))
	fields := eventFields(v.LastEventContext)
	if len(fields) > 0 && strings.HasSuffix(*v.LastEventID, ".not_in_allowlist") {
		// The context of upstream's event has nothing to expect: say so.
		fields = append(fields, eventField{"expected", "nothing: the policy does not name this file"})
	}
	for _, f := range fields {
		s.field("  "+f.name, f.value)
	}
	if failing {
		s.field("next", r.nextStep(*v.LastEventID))
	}
}

// peopleUnexplained is for an agent that calls in and does not fare well, when the verifier keeps no event about it: those
// of another make keep none.
func (r agentReport) peopleUnexplained(s *screen) {
	switch r.verifier.AttestationStatus {
	case "FAIL":
		s.tinted("failure", bad, "the verifier does not tell which; its log does")
		s.field("next", "find the cause on the machine,\nthen `keylime tenant delete` and `add`: not every verifier forgets a failure at `reactivate`")
	case "TIMEOUT":
		s.tinted("failure", bad, clean("it has not attested for "+r.verifier.MaxAttestationDelay))
		s.field("next", "see on the machine whether the agent runs, and what its log says; it passes as soon as it attests")
	}
}

// eventField is one fact of a failure.
type eventField struct{ name, value string }

// eventFields reads an event's context: an object whose members depend on the event. The ones that matter come first.
func eventFields(context json.RawMessage) []eventField {
	var members map[string]json.RawMessage
	if json.Unmarshal(context, &members) != nil {
		return nil
	}
	var fields []eventField
	for _, m := range []struct{ key, name string }{
		{"path", "file"}, {"message", "reason"}, {"context", "reason"}, {"expected", "expected"}, {"got", "got"},
		{"line", "log line"}, {"error", "error"}, {"entry", "entry"}, {"data", "data"},
	} {
		if raw, ok := members[m.key]; ok {
			fields = append(fields, eventField{m.name, factText(raw)})
		}
	}
	return fields
}

// factText is a context's member for people: strings bare, lists one item a line.
func factText(raw json.RawMessage) string {
	const longest = 20
	var one string
	if json.Unmarshal(raw, &one) == nil {
		return clean(one)
	}
	var list []json.RawMessage
	if json.Unmarshal(raw, &list) == nil {
		var lines []string
		for i, item := range list {
			if i == longest {
				lines = append(lines, fmt.Sprintf("and %d more", len(list)-longest))
				break
			}
			lines = append(lines, factText(item))
		}
		if len(lines) == 0 {
			return "nothing"
		}
		return strings.Join(lines, "\n")
	}
	return clean(string(bytes.TrimSpace(raw)))
}

// nextStep is what an operator can do about a failure.
func (r agentReport) nextStep(event string) string {
	again := "\nthen `keylime tenant reactivate -u " + r.agent + "`"
	switch {
	case strings.HasPrefix(event, "internal.verifier.not_reachable") && r.callsIn():
		return "see on the machine whether the agent runs, and what its log says; it passes as soon as it attests"
	case strings.HasPrefix(event, "ima.validation.ima-ng."):
		return "if the file is meant to be there, correct the policy with `keylime tenant runtime-policy update`," + again
	case strings.HasPrefix(event, "internal.verifier.not_reachable"):
		return "start the agent, or correct its address with `keylime tenant update`," + again
	case strings.HasPrefix(event, "pcr_validation."), strings.HasPrefix(event, "measured_boot."):
		return "if the change is meant, give the new values with `keylime tenant update`"
	}
	return "find the cause on the machine," + again
}

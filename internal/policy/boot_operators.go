package policy

import (
	"fmt"
	"regexp"
	"slices"
	"strings"

	"keylime/internal/uefi"
	"keylime/tpm"
)

// bootTest examines a value of an event. It says why the value is not accepted, in words that follow the value's name;
// "" accepts. Tests are immutable; what they remember during one log is in judging.
type bootTest interface {
	why(j *judging, subject any) string
}

// judging is what is remembered during the judgement of one log.
type judging struct {
	runs      []int   // of tests that may run a limited number of times
	collected [][]any // by list
}

// getter is a record.
type getter interface {
	Get(name string) (any, bool)
}

// field reads a field of a record or of an event. An event's payload is read only where its digest proves it or the
// type has none to prove it.
func field(subject any, name string) (value any, fault string) {
	switch s := subject.(type) {
	case uefi.Fact:
		return factField(s, name)
	case getter:
		if value, ok := s.Get(name); ok {
			return value, ""
		}
		return nil, fmt.Sprintf("has no %q field", name)
	}
	return nil, "is not a record"
}

func factField(f uefi.Fact, name string) (value any, fault string) {
	switch name {
	case "EventNum":
		return uint64(f.Number()), ""
	case "PCRIndex":
		return uint64(f.PCR()), ""
	case "EventType":
		return f.Type().String(), ""
	case "Event":
		content, err := f.Content()
		switch {
		case err != nil:
			return nil, fmt.Sprintf("event %d: %v", f.Number(), err)
		case content != nil:
			return content, ""
		}
	}
	return nil, fmt.Sprintf("has no %q field", name)
}

// elements lists the elements of a list.
func elements(subject any) (list []any, ok bool) {
	switch s := subject.(type) {
	case []any:
		return s, true
	case []uefi.SignatureList:
		return boxed(s), true
	case []uefi.Signature:
		return boxed(s), true
	case []uefi.Object:
		return boxed(s), true
	case []string:
		return boxed(s), true
	}
	return nil, false
}

func boxed[T any](list []T) []any {
	out := make([]any, len(list))
	for i, v := range list {
		out[i] = v
	}
	return out
}

// stringIn is the text of a value that is written as a string.
func stringIn(subject any) (string, bool) {
	switch s := subject.(type) {
	case string:
		return s, true
	case uefi.Hex:
		return s.String(), true
	case uefi.GUID:
		return s.String(), true
	}
	return "", false
}

type acceptTest struct{}

func (acceptTest) why(*judging, any) string { return "" }

type rejectTest string

func (t rejectTest) why(*judging, any) string { return string(t) }

// andTest accepts what all accept.
type andTest []bootTest

func (t andTest) why(j *judging, subject any) string {
	for _, test := range t {
		if reason := test.why(j, subject); reason != "" {
			return reason
		}
	}
	return ""
}

// orTest accepts what one accepts. Later ones are not tried.
type orTest []bootTest

func (t orTest) why(j *judging, subject any) string {
	if len(t) == 0 {
		return "does not pass empty disjunction"
	}
	reasons := make([]string, len(t))
	for i, test := range t {
		if reasons[i] = test.why(j, subject); reasons[i] == "" {
			return ""
		}
	}
	return joinReasons(reasons)
}

// joinReasons lists the different reasons, up to a length that a message can hold.
func joinReasons(reasons []string) string {
	const most = 2048
	reasons = slices.Compact(reasons)
	text := "[" + strings.Join(reasons, ", ") + "]"
	if len(text) > most {
		text = strings.ToValidUTF8(text[:most], "") + "…]"
	}
	return text
}

// timesTest runs its test a limited number of times in one log.
type timesTest struct {
	slot, most int
	test       bootTest
}

func (t timesTest) why(j *judging, subject any) string {
	if j.runs[t.slot] == t.most {
		if t.most == 1 {
			return "test was already run once"
		}
		return fmt.Sprintf("test was already run %d times", t.most)
	}
	j.runs[t.slot]++
	return t.test.why(j, subject)
}

// collectTest keeps the value for the test of all events together.
type collectTest int

func (t collectTest) why(j *judging, subject any) string {
	j.collected[t] = append(j.collected[t], subject)
	return ""
}

type fieldTest struct {
	name string
	test bootTest
}

func (t fieldTest) why(j *judging, subject any) string {
	value, fault := field(subject, t.name)
	if fault != "" {
		return fault
	}
	if reason := t.test.why(j, value); reason != "" {
		return t.name + " " + reason
	}
	return ""
}

// eachTest holds every element of a list to a test.
type eachTest struct{ test bootTest }

func (t eachTest) why(j *judging, subject any) string {
	list, ok := elements(subject)
	if !ok {
		return "is not a list"
	}
	for i, element := range list {
		if reason := t.test.why(j, element); reason != "" {
			return index(i) + " " + reason
		}
	}
	return ""
}

// tupleTest holds a list to one test for each of its elements. With pad, missing elements are tested as null.
type tupleTest struct {
	tests []bootTest
	pad   bool
}

func (t tupleTest) why(j *judging, subject any) string {
	list, ok := elements(subject)
	switch {
	case !ok:
		return "is not a list"
	case len(list) > len(t.tests):
		return fmt.Sprintf("is longer (%d) than the applicable tests (%d)", len(list), len(t.tests))
	case len(list) < len(t.tests) && !t.pad:
		return fmt.Sprintf("is shorter (%d) than the applicable tests (%d)", len(list), len(t.tests))
	}
	for i, test := range t.tests {
		var element any
		if i < len(list) {
			element = list[i]
		}
		if reason := test.why(j, element); reason != "" {
			return index(i) + " " + reason
		}
	}
	return ""
}

// dispatchTest chooses a test by the values of some fields.
type dispatchTest struct {
	keys  []string
	tests map[string]bootTest // by dispatchKey
}

func dispatchKey(values []any) string { return fmt.Sprintf("%q", values) }

func (t dispatchTest) why(j *judging, subject any) string {
	values := make([]any, len(t.keys))
	for i, name := range t.keys {
		value, fault := field(subject, name)
		if fault != "" {
			return fault
		}
		if text, ok := stringIn(value); ok {
			value = text
		}
		values[i] = fmt.Sprint(value)
	}
	test, ok := t.tests[dispatchKey(values)]
	if !ok {
		return fmt.Sprintf("has unexpected %s combination %s", strings.Join(t.keys, ", "), clipText(dispatchKey(values)))
	}
	return test.why(j, subject)
}

type intTest uint64

func (t intTest) why(_ *judging, subject any) string {
	if n, ok := subject.(uint64); !ok {
		return "is not a number"
	} else if n != uint64(t) {
		return fmt.Sprintf("is not %d", uint64(t))
	}
	return ""
}

type stringTest string

func (t stringTest) why(_ *judging, subject any) string {
	if s, ok := stringIn(subject); !ok {
		return "is not a string"
	} else if s != string(t) {
		return fmt.Sprintf("is not %q", clipText(string(t)))
	}
	return ""
}

// patternTest holds a whole string to a pattern.
type patternTest struct {
	source  string
	pattern *regexp.Regexp
}

func (t patternTest) why(_ *judging, subject any) string {
	if s, ok := stringIn(subject); !ok {
		return "is not a string"
	} else if !t.pattern.MatchString(s) {
		return fmt.Sprintf("does not match %q", clipText(t.source))
	}
	return ""
}

// digestTest accepts events whose digest in the quote's bank is of a set. Digests of other banks prove nothing.
type digestTest struct{ set digestSet }

func (t digestTest) why(_ *judging, subject any) string {
	f, ok := subject.(uefi.Fact)
	if !ok {
		return "is not an event"
	}
	d := f.Digest()
	if _, ok := t.set[digestKey(d.Alg, d.Value)]; !ok {
		return fmt.Sprintf("has digest %v:%v, which is not approved", d.Alg, d.Value)
	}
	return ""
}

// boundTest accepts events whose digest is that of the payload.
type boundTest struct{}

func (boundTest) why(_ *judging, subject any) string {
	if f, ok := subject.(uefi.Fact); !ok {
		return "is not an event"
	} else if f.Binding() != uefi.Bound {
		return fmt.Sprintf("event %d: %v", f.Number(), uefi.ErrDigestMismatch)
	}
	return ""
}

// variableOf is the EFI variable that an event is about.
func variableOf(subject any) (v *uefi.Variable, fault string) {
	event, fault := field(subject, "Event")
	if fault != "" {
		return nil, fault
	}
	v, ok := event.(*uefi.Variable)
	if !ok {
		return nil, "Event is not about a variable"
	}
	return v, ""
}

// variableTest holds an event about one EFI variable, or any whose name matches, to a test of the variable's data.
type variableTest struct {
	guid uefi.GUID
	name bootTest
	test bootTest
}

func (t variableTest) why(j *judging, subject any) string {
	v, fault := variableOf(subject)
	if fault != "" {
		return fault
	}
	if guid, _ := v.Get("VariableName"); guid != t.guid {
		return fmt.Sprintf("Event.VariableName is %v rather than %v", guid, t.guid)
	}
	name, _ := v.Get("UnicodeName")
	if reason := t.name.why(j, name); reason != "" {
		return fmt.Sprintf("Event.UnicodeName, %q, %s", name, reason)
	}
	return fieldTest{"VariableData", t.test}.why(j, v)
}

// variablesTest chooses a test by an EFI variable's name.
type variablesTest map[variableName]bootTest

type variableName struct {
	guid uefi.GUID
	name string
}

func (t variablesTest) why(j *judging, subject any) string {
	v, fault := variableOf(subject)
	if fault != "" {
		return fault
	}
	guid, _ := v.Get("VariableName")
	name, _ := v.Get("UnicodeName")
	key := variableName{}
	key.guid, _ = guid.(uefi.GUID)
	key.name, _ = name.(string)
	test, ok := t[key]
	if !ok {
		return fmt.Sprintf("has unexpected variable %v %q", key.guid, clipText(key.name))
	}
	if reason := (fieldTest{"VariableData", test}).why(j, v); reason != "" {
		return fmt.Sprintf("variable %q %s", key.name, reason)
	}
	return ""
}

// memberTest accepts signatures of a set.
type memberTest map[string]struct{}

func (t memberTest) why(_ *judging, subject any) string {
	s, ok := subject.(uefi.Signature)
	if !ok {
		return "is not a signature"
	}
	var buffer [maxKeyOnStack]byte
	if _, ok := t[string(appendSignatureKey(buffer[:0], s))]; !ok {
		return fmt.Sprintf("is not listed: owner %v, data %s", s.Owner, clipText(s.Data.String()))
	}
	return ""
}

// keysInTest accepts signature lists of certain types all of whose keys are of a set.
type keysInTest struct {
	types []uefi.GUID
	keys  memberTest
}

func (t keysInTest) why(j *judging, subject any) string {
	lists, ok := subject.([]uefi.SignatureList)
	if !ok {
		return "is not a list"
	}
	for i, l := range lists {
		if !slices.Contains(t.types, l.Type) {
			return fmt.Sprintf("[%d] SignatureType is %v", i, l.Type)
		}
		for k, key := range l.Keys {
			if reason := t.keys.why(j, key); reason != "" {
				return fmt.Sprintf("[%d] Keys [%d] %s", i, k, reason)
			}
		}
	}
	return ""
}

// keysIncludeTest accepts signature lists that hold all keys of a list: one list of one type, or with union any number
// of lists together, whatever their types: reference states do not tell them.
type keysIncludeTest struct {
	kind  uefi.GUID
	keys  []uefi.Signature
	index map[string]int // of keys, as signatureSet has them
	union bool
}

func newKeysIncludeTest(keys []uefi.Signature) keysIncludeTest {
	t := keysIncludeTest{index: make(map[string]int, 2*len(keys))}
	for _, key := range keys {
		if _, twice := t.index[signatureKey(key)]; twice {
			continue
		}
		t.index[signatureKey(key)] = len(t.keys)
		t.index[signatureKey(uefi.Signature{Owner: key.Owner.Swapped(), Data: key.Data})] = len(t.keys)
		t.keys = append(t.keys, key)
	}
	return t
}

func (t keysIncludeTest) why(_ *judging, subject any) string {
	lists, ok := subject.([]uefi.SignatureList)
	switch {
	case !ok:
		return "is not a list"
	case !t.union && len(lists) != 1:
		return fmt.Sprintf("has %d signature lists, not one", len(lists))
	case !t.union && lists[0].Type != t.kind:
		return fmt.Sprintf("[0] SignatureType is not %v", t.kind)
	}
	present := make([]bool, len(t.keys))
	var buffer [maxKeyOnStack]byte
	for _, l := range lists {
		for _, key := range l.Keys {
			if i, ok := t.index[string(appendSignatureKey(buffer[:0], key))]; ok {
				present[i] = true
			}
		}
	}
	for i, key := range t.keys {
		if !present[i] {
			return fmt.Sprintf("lacks a required key: owner %v, data %s", key.Owner, clipText(key.Data.String()))
		}
	}
	return ""
}

// supersetTest accepts lists of records with exactly these fields, among which all required ones are.
type supersetTest struct {
	fields   []string
	required []string // dispatchKey of the fields' values
}

func (t supersetTest) why(_ *judging, subject any) string {
	list, ok := elements(subject)
	if !ok {
		return "is not a list"
	}
	present := map[string]bool{}
	for i, element := range list {
		values := make([]any, len(t.fields))
		for k, name := range t.fields {
			value, fault := field(element, name)
			if fault != "" {
				return index(i) + " " + fault
			}
			if text, ok := stringIn(value); ok {
				value = text
			}
			values[k] = fmt.Sprint(value)
		}
		if o, ok := element.(uefi.Object); ok && len(o) != len(t.fields) {
			return fmt.Sprintf("[%d] has other fields than %q", i, t.fields)
		}
		present[dispatchKey(values)] = true
	}
	for _, key := range t.required {
		if !present[key] {
			return "lacks " + clipText(key)
		}
	}
	return ""
}

// boundString is the payload of an event, a text that its digest proves.
func boundString(j *judging, subject any) (s, fault string) {
	if fault = (boundTest{}).why(j, subject); fault != "" {
		return "", fault
	}
	value, fault := field(subject, "Event")
	s, _ = stringIn(value)
	return s, fault
}

// The events that firmware measures with fixed texts (PFP, EV_SEPARATOR and EV_EFI_ACTION).

// separatorTest accepts the two values of a separator that report no error.
type separatorTest struct{}

func (separatorTest) why(j *judging, subject any) string {
	s, fault := boundString(j, subject)
	if fault != "" {
		return fault
	}
	if !strings.EqualFold(s, "00000000") && !strings.EqualFold(s, "ffffffff") {
		return fmt.Sprintf("is a separator of value %q, want 00000000 or ffffffff", clipText(s))
	}
	return ""
}

var efiActions = map[int][]string{
	1: {"Entering ROM Based Setup"},
	4: {"Calling EFI Application from Boot Option", "Returning from EFI Application from Boot Option"},
	5: {"Exit Boot Services Invocation", "Exit Boot Services Returned with Failure", "Exit Boot Services Returned with Success"},
	6: {"UEFI Debug Mode"},
}

// actionTest accepts the actions that the PFP lists for a PCR.
type actionTest int

func (t actionTest) why(j *judging, subject any) string {
	s, fault := boundString(j, subject)
	if fault != "" {
		return fault
	}
	if !slices.Contains(efiActions[int(t)], s) {
		return fmt.Sprintf("is action %q, which is not expected in PCR %d", clipText(s), int(t))
	}
	return ""
}

// pcrSetOf reads a list of PCRs of measured boot.
func pcrSetOf(tree any) (tpm.Mask, error) {
	list, err := listOf(tree)
	if err != nil {
		return 0, err
	}
	var mask tpm.Mask
	for i, entry := range list {
		pcr, err := intOf(entry)
		if err != nil {
			return 0, within(index(i), err)
		}
		if pcr >= pcrCount || !BootPCRs.Has(int(pcr)) {
			return 0, within(index(i), faultf("PCR %d is not one of measured boot, %v", pcr, BootPCRs.PCRs()))
		}
		mask = mask.With(int(pcr))
	}
	return mask, nil
}

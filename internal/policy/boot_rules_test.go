package policy

import (
	"fmt"
	"os"
	"regexp"
	"strings"
	"testing"

	"keylime/internal/fleet"
	"keylime/internal/uefi"
	"keylime/tpm"
)

// oneRule is a document with a rule for one kind of event and, if given, a test of all events.
func oneRule(pcr int, kind uefi.EventType, test, finally string) string {
	if finally != "" {
		finally = `,"finally":{"test":` + finally + `}`
	}
	return fmt.Sprintf(`{"keylime_boot_rules":1,"events":[{"pcrs":[0],"types":["EV_NO_ACTION"],"test":{"accept":true}},
		{"pcrs":[%d],"types":["%v"],"test":%s}]%s,
		"reference":{"yes":true,"no":false,"empty":[],"name":"root=a","list":[{"sha256":"0x%064d"}],
			"digest":{"sha256":"0x%s"},"keys":[{"SignatureOwner":"%s","SignatureData":"0x6161"}]}}`,
		pcr, kind, test, finally, 0, sha256Hex("root=a"), testOwner.Swapped())
}

func sha256Hex(text string) string {
	h := tpm.SHA256.Crypto().New()
	h.Write([]byte(text))
	return fmt.Sprintf("%x", h.Sum(nil))
}

var testOwner = uefi.GUID{1, 2, 3, 4, 5, 6, 7, 8, 9}

// TestOperators runs each operator of rules on events that it accepts and refuses. Reasons are what operators read.
func TestOperators(t *testing.T) {
	t.Parallel()
	command := func(l *fleet.BootLog) {
		l.Event(8, uefi.IPL, []byte("kernel_cmdline: root=a\x00"), []byte("root=a"))
	}
	twice := func(l *fleet.BootLog) { command(l); command(l) }
	forged := func(l *fleet.BootLog) {
		l.Event(8, uefi.IPL, []byte("kernel_cmdline: root=a\x00"), []byte("root=b"))
	}
	variable := func(name string, data []byte) func(l *fleet.BootLog) {
		return func(l *fleet.BootLog) {
			v := fleet.Variable(testOwner, name, data)
			l.Event(7, uefi.VariableDriverConfig, v, v)
		}
	}
	x509, _ := uefi.ParseGUID("a5c059a1-94e4-4aa7-87b5-ab155c2bf072")
	sha256Kind, _ := uefi.ParseGUID("c1c41626-504c-4092-aca9-41f936934328")
	db := variable("db", fleet.SignatureList(x509, testOwner, []byte("aa"), []byte("bb")))
	db1 := variable("db", fleet.SignatureList(x509, testOwner, []byte("aa")))
	db2 := variable("db", append(fleet.SignatureList(x509, testOwner, []byte("bb")), fleet.SignatureList(sha256Kind, testOwner, []byte("aa"))...))
	separator := func(value string) func(l *fleet.BootLog) {
		return func(l *fleet.BootLog) { l.Event(0, uefi.Separator, []byte(value), []byte(value)) }
	}
	action := func(text string) func(l *fleet.BootLog) {
		return func(l *fleet.BootLog) { l.Event(4, uefi.EFIAction, []byte(text), []byte(text)) }
	}
	str := func(test string) string {
		return `{"field":{"name":"Event","test":{"field":{"name":"String","test":` + test + `}}}}`
	}
	data := func(test string) string {
		return fmt.Sprintf(`{"variables":[{"guid":"%v","name":"db","test":%s}]}`, testOwner, test)
	}
	for _, c := range []struct {
		pcr     int
		kind    uefi.EventType
		write   func(l *fleet.BootLog)
		test    string
		finally string
		want    string // part of the reason; "" accepts
	}{
		{8, uefi.IPL, command, `{"accept":true}`, "", ""},
		{8, uefi.IPL, command, `{"reject":"no"}`, "", "event 1 (PCR 8, EV_IPL): no (rule: {\"reject\":\"no\"})"},
		{9, uefi.IPL, command, `{"accept":true}`, "", "event 1 (PCR 8, EV_IPL) is of a kind that no rule accepts"},
		{8, uefi.IPL, command, `{"and":[]}`, "", ""},
		{8, uefi.IPL, command, `{"and":[{"accept":true},{"reject":"b"}]}`, "", ": b"},
		{8, uefi.IPL, command, `{"or":[]}`, "", "does not pass empty disjunction"},
		{8, uefi.IPL, command, `{"or":[{"reject":"a"},{"reject":"b"}]}`, "", "[a, b]"},
		{8, uefi.IPL, command, `{"or":[{"reject":"a"},{"accept":true}]}`, "", ""},
		{8, uefi.IPL, command, `{"once":{"accept":true}}`, "", ""},
		{8, uefi.IPL, twice, `{"once":{"accept":true}}`, "", "event 2 (PCR 8, EV_IPL): test was already run once"},
		{8, uefi.IPL, twice, `{"at_most":{"count":2,"test":{"accept":true}}}`, "", ""},
		{8, uefi.IPL, func(l *fleet.BootLog) { twice(l); command(l) }, `{"at_most":{"count":2,"test":{"accept":true}}}`, "", "already run 2 times"},
		{8, uefi.IPL, command, str(`{"string":"kernel_cmdline: root=a"}`), "", ""},
		{8, uefi.IPL, command, str(`{"string":"x"}`), "", `Event String is not "x"`},
		{8, uefi.IPL, command, str(`{"int":1}`), "", `Event String is not a number`},
		{8, uefi.IPL, forged, str(`{"string":"kernel_cmdline: root=a"}`), "", "event 1: digest does not match payload"},
		{8, uefi.IPL, forged, `{"or":[` + str(`{"string":"x"}`) + `,{"digest":{"ref":"digest"}}]}`, "", "event 1: digest does not match payload"},
		{8, uefi.IPL, command, str(`{"pattern":"kernel.*"}`), "", ""},
		{8, uefi.IPL, command, str(`{"pattern":"kernel"}`), "", "does not match"},
		{8, uefi.IPL, command, str(`{"pattern":{"concat":["kernel_cmdline: ",{"ref":"name"}]}}`), "", ""},
		{8, uefi.IPL, func(l *fleet.BootLog) { l.Event(8, uefi.IPL, []byte("a b\nc\x00"), []byte("b\nc")) }, str(`{"pattern":"a.*"}`), "", "does not match"},
		{8, uefi.IPL, func(l *fleet.BootLog) { l.Event(8, uefi.IPL, []byte("a b\nc\x00"), []byte("b\nc")) }, str(`{"pattern":{"expression":"a.*","dotall":true}}`), "", ""},
		{8, uefi.IPL, command, `{"field":{"name":"PCRIndex","test":{"int":8}}}`, "", ""},
		{8, uefi.IPL, command, `{"field":{"name":"PCRIndex","test":{"int":9}}}`, "", "PCRIndex is not 9"},
		{8, uefi.IPL, command, `{"field":{"name":"Nothing","test":{"accept":true}}}`, "", `has no "Nothing" field`},
		{8, uefi.IPL, command, `{"fields":{"EventNum":{"int":1},"EventType":{"string":"EV_IPL"}}}`, "", ""},
		{8, uefi.IPL, command, `{"dispatch":{"keys":["PCRIndex","EventType"],"cases":[{"when":[8,"EV_IPL"],"test":{"accept":true}}]}}`, "", ""},
		{8, uefi.IPL, command, `{"dispatch":{"keys":["PCRIndex"],"cases":[{"when":[9],"test":{"accept":true}}]}}`, "", "has unexpected PCRIndex combination"},
		{8, uefi.IPL, command, `{"digest":{"ref":"digest"}}`, "", ""},
		{8, uefi.IPL, command, `{"digest":{"ref":"list"}}`, "", "which is not approved"},
		{8, uefi.IPL, command, `{"digest":{"ref":"empty"}}`, "", "which is not approved"},
		{8, uefi.IPL, command, `{"digest":{"sha1":"0x` + strings.Repeat("00", 20) + `"}}`, "", "which is not approved"},
		{8, uefi.IPL, command, `{"bound":true}`, "", ""},
		{8, uefi.IPL, forged, `{"bound":true}`, "", "digest does not match payload"},
		{8, uefi.IPL, command, `{"if":{"ref":"yes"},"then":{"accept":true},"else":{"reject":"no"}}`, "", ""},
		{8, uefi.IPL, command, `{"if":{"all":[{"not":{"ref":"no"}},{"not":{"ref":"empty"}}]},"then":{"accept":true},"else":{"reject":"no"}}`, "", ""},
		{8, uefi.IPL, command, `{"if":{"ref":"absent","default":true},"then":{"reject":"default"},"else":{"accept":true}}`, "", "default"},
		{8, uefi.IPL, command, `{"any_of":{"list":{"ref":"list"},"as":"d","test":{"digest":{"ref":"d"}}}}`, "", "which is not approved"},
		{8, uefi.IPL, twice, `{"collect":"all"}`, `{"fields":{"all":{"tuple":[{"accept":true},{"accept":true}]}}}`, ""},
		{8, uefi.IPL, twice, `{"collect":"all"}`, `{"fields":{"all":{"tuple":[{"accept":true}]}}}`, "events together: all is longer (2)"},
		{8, uefi.IPL, command, `{"collect":"all"}`, `{"fields":{"all":{"tuple":[{"accept":true},{"accept":true}]}}}`, "is shorter (1)"},
		{8, uefi.IPL, command, `{"collect":"all"}`, `{"fields":{"all":{"tuple":{"tests":[{"accept":true},{"accept":true}],"pad":true}}}}`, ""},
		{8, uefi.IPL, command, `{"collect":"all"}`, `{"fields":{"all":{"tuple_of":{"list":{"ref":"list"},"as":"d","test":{"digest":{"ref":"d"}}}}}}`, "[0] has digest"},
		{8, uefi.IPL, command, `{"collect":"all"}`, `{"fields":{"all":{"each":{"digest":{"ref":"digest"}}}}}`, ""},
		{8, uefi.IPL, command, `{"collect":"all"}`, `{"fields":{"none":{"accept":true}}}`, `has no "none" field`},
		{7, uefi.VariableDriverConfig, db, fmt.Sprintf(`{"variable":{"guid":"%v","name":"db","test":{"accept":true}}}`, testOwner), "", ""},
		{7, uefi.VariableDriverConfig, db, fmt.Sprintf(`{"variable":{"guid":"%v","pattern":"d.","test":{"accept":true}}}`, testOwner), "", ""},
		{7, uefi.VariableDriverConfig, db, fmt.Sprintf(`{"variable":{"guid":"%v","pattern":"d","test":{"accept":true}}}`, testOwner), "", "Event.UnicodeName"},
		{7, uefi.VariableDriverConfig, db, `{"variable":{"guid":"SHIM_LOCK","name":"db","test":{"accept":true}}}`, "", "rather than 605dab50"},
		{7, uefi.VariableDriverConfig, db, data(`{"accept":true}`), "", ""},
		{7, uefi.VariableDriverConfig, variable("other", []byte{1}), data(`{"accept":true}`), "", "has unexpected variable"},
		{7, uefi.VariableDriverConfig, variable("other", nil), fmt.Sprintf(`{"variable":{"guid":"%v","name":"other","test":{"accept":true}}}`, testOwner), "", `has no "VariableData" field`},
		{7, uefi.VariableDriverConfig, db1, data(`{"keys_in":{"types":["EFI_CERT_X509"],"keys":{"ref":"keys"}}}`), "", ""},
		{7, uefi.VariableDriverConfig, db, data(`{"keys_in":{"types":["EFI_CERT_X509"],"keys":{"ref":"keys"}}}`), "", "[0] Keys [1] is not listed"},
		{7, uefi.VariableDriverConfig, db1, data(`{"keys_in":{"types":["EFI_CERT_SHA256"],"keys":{"ref":"keys"}}}`), "", "SignatureType is a5c059a1"},
		{7, uefi.VariableDriverConfig, variable("db", nil), data(`{"keys_in":{"types":["EFI_CERT_X509"],"keys":{"ref":"keys"}}}`), "", "is not a list"},
		{7, uefi.VariableDriverConfig, db, data(`{"keys_include":{"type":"EFI_CERT_X509","keys":{"ref":"keys"}}}`), "", ""},
		{7, uefi.VariableDriverConfig, db2, data(`{"keys_include":{"type":"EFI_CERT_X509","keys":{"ref":"keys"}}}`), "", "has 2 signature lists"},
		{7, uefi.VariableDriverConfig, db2, data(`{"keys_include":{"union":true,"keys":{"ref":"keys"}}}`), "", ""},
		{7, uefi.VariableDriverConfig, variable("db", fleet.SignatureList(x509, testOwner, []byte("bb"))), data(`{"keys_include":{"union":true,"keys":{"ref":"keys"}}}`), "", "lacks a required key"},
		{7, uefi.VariableDriverConfig, db1, data(`{"each":{"field":{"name":"Keys","test":{"each":{"signature_in":{"ref":"keys"}}}}}}`), "", ""},
		{7, uefi.VariableDriverConfig, db1, data(`{"each":{"field":{"name":"Keys","test":{"each":{"signature_in":{"ref":"empty"}}}}}}`), "", "is not listed"},
		{7, uefi.VariableDriverConfig, db, data(`{"each":{"field":{"name":"Keys","test":{"superset":{"fields":["SignatureData"],"required":[{"SignatureData":"6262"}]}}}}}`), "", ""},
		{7, uefi.VariableDriverConfig, db1, data(`{"each":{"field":{"name":"Keys","test":{"superset":{"fields":["SignatureData"],"required":[{"SignatureData":"6262"}]}}}}}`), "", "lacks"},
		{0, uefi.Separator, separator("\x00\x00\x00\x00"), `{"separator":true}`, "", ""},
		{0, uefi.Separator, separator("\xff\xff\xff\xff"), `{"separator":true}`, "", ""}, // HARDEN 8
		{0, uefi.Separator, separator("\x01\x00\x00\x00"), `{"separator":true}`, "", `separator of value "01000000"`},
		{4, uefi.EFIAction, action("Calling EFI Application from Boot Option"), `{"efi_action":4}`, "", ""},
		{4, uefi.EFIAction, action("Exit Boot Services Invocation"), `{"efi_action":4}`, "", "not expected in PCR 4"},
	} {
		l := fleet.NewBootLog(tpm.SHA1, tpm.SHA256)
		c.write(l)
		got := compiledBoot(t, BootAcceptAll, oneRule(c.pcr, c.kind, c.test, c.finally)).Judge(believed(t, l.Bytes()))
		if (c.want == "") != (got == "") || !strings.Contains(got, c.want) {
			t.Errorf("%s %s: %q, want %q", c.test, c.finally, got, c.want)
		}
	}
}

// TestBadBootPolicies names the place of each fault.
func TestBadBootPolicies(t *testing.T) {
	t.Parallel()
	rule := func(test string) string { return oneRule(8, uefi.IPL, test, "") }
	for text, want := range map[string]string{
		`x`:                        "byte 0: want a value",
		`[]`:                       "want a JSON object, not a list",
		`{} {}`:                    "data after the value",
		`{"a":1,"a":1}`:            "stands twice in one object",
		`{"keylime_boot_rules":2}`: "keylime_boot_rules: form 2 is unknown",
		`{"keylime_boot_rules":1}`: `"events" is missing`,
		`{"keylime_boot_rules":1,"events":[],"extra":1}`:                                                                 `"extra" is not a field`,
		`{"keylime_boot_rules":1,"events":[],"reference":1}`:                                                             "reference: want an object",
		`{"keylime_boot_rules":1,"events":[],"relevant_pcrs":[10]}`:                                                      "relevant_pcrs[0]: PCR 10 is not one of measured boot",
		`{"keylime_boot_rules":1,"events":[],"relevant_pcrs":[]}`:                                                        "relevant_pcrs: want at least one",
		`{"keylime_boot_rules":1,"events":[],"require":["pk"]}`:                                                          `the reference state lacks "pk"`,
		`{"keylime_boot_rules":1,"events":[{"pcrs":[99],"types":[],"test":{}}]}`:                                         "events[0].pcrs[0]: PCR 99",
		`{"keylime_boot_rules":1,"events":[{"pcrs":[1],"types":["EV_X"],"test":{"accept":true}}]}`:                       `events[0].types[0]: "EV_X" is not the name`,
		`{"keylime_boot_rules":1,"relevant_pcrs":[1],"events":[{"pcrs":[2],"types":["EV_IPL"],"test":{"accept":true}}]}`: "rules name PCRs [2] besides",
		`{"keylime_boot_rules":1,"events":[{"pcrs":[1],"types":["EV_IPL","EV_IPL"],"test":{"accept":true}}]}`:            "PCR 1, EV_IPL has a rule already",
		rule(`{}`):                                                "events[1].test: a test without an operator",
		rule(`1`):                                                 "want a test, not the number 1",
		rule(`{"and":[{"nonsense":1}]}`):                          `events[1].test.and[0]: "nonsense" is not an operator`,
		rule(`{"accept":true,"reject":"x"}`):                      "a test has one operator",
		rule(`{"reject":""}`):                                     "reject: want a reason",
		rule(`{"digest":{"ref":"absent"}}`):                       `events[1].test.digest: reference "absent": the reference state lacks "absent"`,
		rule(`{"digest":{"ref":"name"}}`):                         `reference "name": want a digest`,
		rule(`{"digest":{"md5":"0x00"}}`):                         `hash algorithm "md5" is unknown`,
		rule(`{"digest":{"sha256":"0x00"}}`):                      "digest of 1 bytes, want 32",
		rule(`{"digest":{"sha256":"00"}}`):                        "want 0x and lower-case hex digits",
		rule(`{"pattern":"("}`):                                   "unterminated",
		rule(`{"pattern":"(?=x)"}`):                               "look-ahead is not supported at position 0",
		rule(`{"pattern":"` + strings.Repeat("a", 20<<10) + `"}`): "expression of 20480 bytes",
		rule(`{"at_most":{"count":0,"test":{"accept":true}}}`):    "count: 0 is not a number from 1",
		rule(`{"at_most":{"count":1e9,"test":{"accept":true}}}`):  "count: want a whole number",
		rule(`{"efi_action":3}`):                                  "no action is defined for PCR 3",
		rule(`{"if":true,"then":{"accept":true}}`):                "want the fields if, then and else",
		rule(`{"variables":[{"guid":"x","name":"a","test":{}}]}`): `variables[0].guid: GUID "x"`,
		rule(`{"superset":{"fields":["a"],"required":[{}]}}`):     "required[0]: want a record",
		rule(strings.Repeat(`{"and":[`, 40) + `{"accept":true}` + strings.Repeat(`]}`, 40)): "nested too deeply",
	} {
		_, err := CompileBoot(BootAcceptAll, []byte(text))
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%.100s: %v, want %q", text, err, want)
		}
	}
	if _, err := CompileBoot("no-such", []byte(`{}`)); err == nil {
		t.Error("an engine that does not exist")
	}
	if _, err := CompileBoot(BootExample, make([]byte, maxBootBytes+1)); err == nil || !strings.Contains(err.Error(), "exceeds") {
		t.Errorf("size: %v", err)
	}
	for _, nothing := range []string{"", " ", "null", "{}", " {\n}\n"} {
		if b, err := CompileBoot(BootRejectAll, []byte(nothing)); b != nil || err != nil {
			t.Errorf("%q: %v %v", nothing, b, err)
		}
	}
}

// Lists that are walked within each other multiply; the compiler stops before memory does.
func TestRulesThatExplodeAreRefused(t *testing.T) {
	t.Parallel()
	numbers := "[" + strings.TrimSuffix(strings.Repeat("1,", 1000), ",") + "]"
	test := `{"accept":true}`
	for range 4 {
		test = `{"any_of":{"list":{"ref":"n"},"as":"x","test":` + test + `}}`
	}
	text := `{"keylime_boot_rules":1,"reference":{"n":` + numbers + `},"events":[{"pcrs":[1],"types":["EV_IPL"],"test":` + test + `}]}`
	if _, err := CompileBoot(BootAcceptAll, []byte(text)); err == nil || !strings.Contains(err.Error(), "lists that are walked within each other multiply") {
		t.Errorf("got %.200v", err)
	}
}

// TestEveryBuiltInRuleIsExplained: rules are for people too.
func TestEveryBuiltInRuleIsExplained(t *testing.T) {
	t.Parallel()
	for _, engine := range BootEngines() {
		rules := compiledBoot(t, engine, fleet.NewBootChain("1").Reference()).Explain()
		if len(rules) == 0 {
			t.Errorf("%s: no rules", engine)
		}
		for i, rule := range rules {
			if len(rule.Comment) < 20 || strings.HasPrefix(rule.Comment, "{") || !strings.HasSuffix(rule.Comment, ".") {
				t.Errorf("%s: rule %d for %v %v: comment %q", engine, i, rule.PCRs, rule.Types, rule.Comment)
			}
		}
	}
}

// TestDocumentedRulesCompile holds the documents of docs/measured-boot.md to what they say, and names every operator.
func TestDocumentedRulesCompile(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile("../../docs/measured-boot.md")
	if err != nil {
		t.Fatal(err)
	}
	documents := regexp.MustCompile("(?s)```json\n(.*?)```").FindAllSubmatch(text, -1)
	if len(documents) == 0 {
		t.Fatal("no documents")
	}
	for _, d := range documents {
		b, err := CompileBoot(BootExample, d[1])
		if err != nil {
			t.Errorf("%v\n%s", err, d[1])
		} else if b.Engine() != BootRules || b.Mask() != tpm.MaskOf(4, 7, 12) {
			t.Errorf("%s, PCRs %v", b.Engine(), b.Mask().PCRs())
		}
	}
	for operator := range bootOperators() {
		if !strings.Contains(string(text), `{"`+operator+`": `) && !strings.Contains(string(text), `"`+operator+`": `) {
			t.Errorf("operator %s is not documented", operator)
		}
	}
}

// FuzzCompileBoot: no text panics, and what compiles judges.
func FuzzCompileBoot(f *testing.F) {
	f.Add(fleet.NewBootChain("1").Reference())
	f.Add(oneRule(8, uefi.IPL, `{"or":[{"digest":{"ref":"digest"}},{"once":{"field":{"name":"Event","test":{"pattern":".*"}}}}]}`, `{"fields":{}}`))
	f.Add(oneRule(7, uefi.VariableDriverConfig, `{"variables":[]}`, ""))
	proven := believed(f, fleet.NewBootChain("1").Log(tpm.SHA256).Bytes())
	f.Fuzz(func(t *testing.T, text string) {
		for _, engine := range BootEngines() {
			b, err := CompileBoot(engine, []byte(text))
			if err != nil || b == nil {
				continue
			}
			b.Judge(proven)
			b.Explain()
			if b.Mask()&^BootPCRs != 0 || b.Mask() == 0 {
				t.Fatalf("asks for PCRs %v", b.Mask().PCRs())
			}
		}
	})
}

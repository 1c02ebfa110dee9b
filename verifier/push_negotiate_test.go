package verifier

import (
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"keylime/internal/api"
	"keylime/internal/fleet"
	"keylime/internal/jsonapi"
	"keylime/store"
	"keylime/tpm"
)

// offer is a genuine request, of which tests change a part.
type offer map[string]any

// genuineOffer is what an agent with this TPM sends that has n IMA entries.
func genuineOffer(soft *fleet.SoftTPM, n int) offer {
	ak, err := tpm.ParsePublic(soft.AKPublic())
	if err != nil {
		panic(err)
	}
	pcrs := make([]int, 24)
	for i := range pcrs {
		pcrs[i] = i
	}
	family := familyOf(ak.SignAlg())
	return offer{
		"evidence_supported": []any{
			map[string]any{"evidence_class": "certification", "evidence_type": "tpm_quote", "capabilities": map[string]any{
				"component_version":  "2.0",
				"hash_algorithms":    []string{"sha1", "sha256", "sha384"},
				"signature_schemes":  []string{"ecdsa", "ecschnorr", "rsapss", "rsassa"},
				"available_subjects": map[string]any{"sha1": pcrs, "sha256": pcrs, "sha384": pcrs},
				"certification_keys": []any{map[string]any{
					"key_class": "asymmetric", "key_algorithm": family, "key_size": 2048, "server_identifier": "ak",
					"local_identifier":            hex.EncodeToString(ak.Name()),
					"public":                      base64.StdEncoding.EncodeToString(ak.Bytes()[2:]),
					"allowable_hash_algorithms":   []string{"sha256"},
					"allowable_signature_schemes": []string{ak.SignAlg()},
				}},
			}},
			map[string]any{"evidence_class": "log", "evidence_type": "uefi_log", "capabilities": map[string]any{
				"evidence_version": "2.1", "entry_count": 7, "supports_partial_access": false, "appendable": false,
				"formats": []string{"application/octet-stream"},
			}},
			map[string]any{"evidence_class": "log", "evidence_type": "ima_log", "capabilities": map[string]any{
				"entry_count": n, "supports_partial_access": true, "appendable": true, "formats": []string{"text/plain"},
			}},
		},
		"system_info": map[string]any{"boot_time": "2026-11-23T21:06:38Z"},
	}
}

// at returns the part of the offer that a path leads to: names, and numbers as text.
func (o offer) at(path string) (container any, last string) {
	parts := strings.Split(path, ".")
	var v any = map[string]any(o)
	for _, p := range parts[:len(parts)-1] {
		switch c := v.(type) {
		case map[string]any:
			v = c[p]
		case []any:
			var i int
			_, _ = fmt.Sscan(p, &i)
			v = c[i]
		}
	}
	return v, parts[len(parts)-1]
}

// with sets a part; nil removes it.
func (o offer) with(path string, value any) offer {
	c, last := o.at(path)
	switch c := c.(type) {
	case map[string]any:
		c[last] = value
		if value == nil {
			delete(c, last)
		}
	case []any:
		var i int
		_, _ = fmt.Sscan(last, &i)
		c[i] = value
	}
	return o
}

func (o offer) text(t testing.TB) json.RawMessage { return encode(t, o) }

const (
	quoteCaps = "evidence_supported.0.capabilities"
	bootCaps  = "evidence_supported.1.capabilities"
	imaCaps   = "evidence_supported.2.capabilities"
	keyCaps   = quoteCaps + ".certification_keys.0"
)

// genuineTerms are those of a verifier whose policies need everything.
func genuineTerms(soft *fleet.SoftTPM) terms {
	ak, err := tpm.ParsePublic(soft.AKPublic())
	if err != nil {
		panic(err)
	}
	return terms{
		mask: tpm.MaskOf(0, 4, 10), bootLog: true, ak: ak, challenge: []byte("sixteen bytes..."),
		acceptHash: []string{"sha512", "sha384", "sha256"}, acceptSign: []string{"ecschnorr", "rsassa", "ecdsa"},
	}
}

func rsaTPM(t testing.TB) *fleet.SoftTPM { return softTPM(t, "rsa2048") }

func TestNegotiationAsksForWhatThePoliciesNeed(t *testing.T) {
	t.Parallel()
	soft := rsaTPM(t)
	full := genuineTerms(soft)
	for _, c := range []struct {
		name   string
		terms  func(t terms) terms
		change func(o offer) offer
		want   string // types asked for
		quote  string // scheme, hash, bank → PCRs
		offset uint64
	}{
		{name: "everything", want: "tpm_quote uefi_log ima_log", quote: "rsassa sha256 map[sha1:[] sha256:[0 4 10] sha384:[]]"},
		{name: "PCRs only", terms: func(t terms) terms { t.mask, t.bootLog = tpm.MaskOf(7), false; return t },
			want: "tpm_quote", quote: "rsassa sha256 map[sha1:[] sha256:[7] sha384:[]]"},
		{name: "IMA only", terms: func(t terms) terms { t.mask, t.bootLog = tpm.MaskOf(10), false; return t },
			want: "tpm_quote ima_log", quote: "rsassa sha256 map[sha1:[] sha256:[10] sha384:[]]"},
		{name: "nothing", terms: func(t terms) terms { t.mask, t.bootLog = 0, false; return t }},
		{name: "a key without restrictions signs by its own scheme", change: func(o offer) offer {
			return o.with(keyCaps+".allowable_hash_algorithms", nil).with(keyCaps+".allowable_signature_schemes", nil)
		}, want: "tpm_quote uefi_log ima_log", quote: "rsassa sha256 map[sha1:[] sha256:[0 4 10] sha384:[]]"},
		{name: "a key allowed more signs by its own scheme", change: func(o offer) offer {
			return o.with(keyCaps+".allowable_hash_algorithms", []string{"sha384", "sha256"}).with(keyCaps+".allowable_signature_schemes", []string{"rsapss", "rsassa"})
		}, want: "tpm_quote uefi_log ima_log", quote: "rsassa sha256 map[sha1:[] sha256:[0 4 10] sha384:[]]"},
		{name: "a log of an unknown type is left out", change: func(o offer) offer {
			list := o["evidence_supported"].([]any)
			o["evidence_supported"] = append(list, map[string]any{"evidence_class": "log", "evidence_type": "moon_log", "capabilities": map[string]any{}})
			return o
		}, want: "tpm_quote uefi_log ima_log", quote: "rsassa sha256 map[sha1:[] sha256:[0 4 10] sha384:[]]"},
		{name: "the list goes on in the same boot", terms: func(t terms) terms { t.nextEntry, t.provenBoot = 5, sample(0); return t },
			want: "tpm_quote uefi_log ima_log", offset: 5},
		{name: "the kernel's boot time jitters", terms: func(t terms) terms { t.nextEntry, t.provenBoot = 5, sample(2*time.Second); return t },
			want: "tpm_quote uefi_log ima_log", offset: 5},
		{name: "as many entries as are proven", terms: func(t terms) terms { t.nextEntry, t.provenBoot = 9, sample(0); return t },
			want: "tpm_quote uefi_log ima_log", offset: 9},
		// NT-8B: none of these may skip entries.
		{name: "later boot time", terms: func(t terms) terms { t.nextEntry, t.provenBoot = 5, sample(-time.Minute); return t },
			want: "tpm_quote uefi_log ima_log"},
		{name: "earlier boot time", terms: func(t terms) terms { t.nextEntry, t.provenBoot = 5, sample(time.Hour); return t },
			want: "tpm_quote uefi_log ima_log"},
		{name: "same boot time, shorter log", terms: func(t terms) terms { t.nextEntry, t.provenBoot = 50, sample(0); return t },
			want: "tpm_quote uefi_log ima_log"},
		{name: "nothing proven", terms: func(t terms) terms { t.nextEntry = 5; return t }, want: "tpm_quote uefi_log ima_log"},
		{name: "no measurement yet", change: func(o offer) offer { return o.with(imaCaps+".entry_count", 0) }, want: "tpm_quote uefi_log ima_log"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			o, terms := genuineOffer(soft, 9), full
			if c.change != nil {
				o = c.change(o)
			}
			if c.terms != nil {
				terms = c.terms(terms)
			}
			given, problems := parseCapabilities(o.text(t))
			if problems != nil {
				t.Fatalf("capabilities: %s", encode(t, problems))
			}
			items, problems := negotiate(given, terms)
			if problems != nil {
				t.Fatalf("refused: %s", encode(t, problems))
			}
			checkChoice(t, items, c.want, c.quote, c.offset)
		})
	}
}

// sample is the boot time of a genuine offer, and some.
func sample(d time.Duration) time.Time { return time.Date(2026, 11, 23, 21, 6, 38, 0, time.UTC).Add(d) }

func checkChoice(t *testing.T, items []store.EvidenceItem, want, quote string, offset uint64) {
	t.Helper()
	var kinds []string
	for _, i := range items {
		kinds = append(kinds, i.Type)
	}
	if got := strings.Join(kinds, " "); got != want {
		t.Fatalf("asked for %q, want %q", got, want)
	}
	for _, i := range items {
		switch i.Type {
		case api.EvidenceQuote:
			var p api.QuoteParameters
			if err := json.Unmarshal(i.Chosen, &p); err != nil {
				t.Fatal(err)
			}
			if got := fmt.Sprint(p.Scheme, " ", p.Hash, " ", p.Subjects); quote != "" && got != quote {
				t.Errorf("quote is to be %s, want %s", got, quote)
			}
			if c, _ := base64.StdEncoding.DecodeString(p.Challenge); string(c) != "sixteen bytes..." {
				t.Errorf("challenge %q", c)
			}
			if !strings.Contains(string(i.Chosen), `"sha1":null`) {
				t.Errorf("banks that are not wanted are not null: %s", i.Chosen)
			}
		case api.EvidenceIMA:
			var p api.LogParameters
			if err := json.Unmarshal(i.Chosen, &p); err != nil || p.Offset == nil || *p.Offset != offset || p.Format != "text/plain" {
				t.Errorf("IMA log from %s, want offset %d", i.Chosen, offset)
			}
		}
	}
}

func TestNegotiationRefuses(t *testing.T) {
	t.Parallel()
	soft := rsaTPM(t)
	quote := "must have 'tpm_quote' with capabilities which are valid and satisfy agent policy "
	for _, c := range []struct {
		name            string
		change          func(o offer) offer
		terms           func(t terms) terms
		pointer, detail string
	}{
		{name: "no TPM", change: func(o offer) offer { return o.with("evidence_supported.0.evidence_type", "moon_quote") },
			pointer: "/evidence", detail: "must contain a certification item of type 'tpm_quote' per agent policy"},
		{name: "TPM 1.2", change: func(o offer) offer { return o.with(quoteCaps+".component_version", "1.2") },
			pointer: "/evidence", detail: quote + "(check 'component_version')"},
		{name: "no scheme in common", terms: func(t terms) terms { t.acceptSign = []string{"ecdaa"}; return t },
			pointer: "/evidence", detail: quote + "(check 'signature_schemes')"},
		{name: "no hash in common", terms: func(t terms) terms { t.acceptHash = []string{"sha512"}; return t },
			pointer: "/evidence", detail: quote + "(check 'hash_algorithms')"},
		{name: "no bank in common", change: func(o offer) offer {
			return o.with(quoteCaps+".available_subjects", map[string]any{"sha1": []int{0, 4, 10}})
		},
			pointer: "/evidence", detail: quote + "(check PCR banks in 'available_subjects')"},
		{name: "no usable key", change: func(o offer) offer { return o.with(keyCaps+".allowable_hash_algorithms", []string{"sha384"}) },
			pointer: "/evidence", detail: quote + "(check schemes and algorithms in 'certification_keys')"},
		{name: "a scheme that is not the AK's", terms: func(t terms) terms { t.acceptSign = []string{"rsapss"}; return t },
			pointer: "/evidence", detail: quote + "(check schemes and algorithms in 'certification_keys')"},
		{name: "PCRs that the bank lacks", change: func(o offer) offer {
			return o.with(quoteCaps+".available_subjects", map[string]any{"sha1": []int{0, 4, 10}, "sha256": []int{0, 10}})
		}, pointer: "/evidence", detail: quote + "(check the correct numbered PCRs are given for an allowable PCR bank)"},
		{name: "no boot log", change: func(o offer) offer { return o.with("evidence_supported.1.evidence_type", "moon_log") },
			pointer: "/evidence", detail: "must contain a log item of type 'uefi_log' per agent policy"},
		{name: "boot log in another format", change: func(o offer) offer { return o.with(bootCaps+".formats", []string{"text/plain"}) },
			pointer: "/evidence", detail: "must have 'uefi_log' with format 'application/octet-stream'"},
		{name: "IMA log as a whole only", change: func(o offer) offer { return o.with(imaCaps+".supports_partial_access", false) },
			pointer: "/evidence", detail: "must have 'ima_log' with format 'text/plain' and which supports partial access"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			o, terms := genuineOffer(soft, 9), genuineTerms(soft)
			if c.change != nil {
				o = c.change(o)
			}
			if c.terms != nil {
				terms = c.terms(terms)
			}
			given, problems := parseCapabilities(o.text(t))
			if len(problems) == 0 {
				_, problems = negotiate(given, terms)
			}
			wantProblem(t, problems, c.pointer, "Attribute 'evidence' "+c.detail+".")
		})
	}
}

func TestCapabilitiesAreChecked(t *testing.T) {
	t.Parallel()
	soft := rsaTPM(t)
	item := "/evidence/0/capabilities"
	for _, c := range []struct {
		path    string
		value   any
		pointer string
		detail  string
	}{
		{"evidence_supported", nil, "/evidence", "is required"},
		{"evidence_supported", []any{}, "/evidence", "is required"},
		{"evidence_supported", "x", "/evidence", "must be an array"},
		{"evidence_supported.0", 7, "/evidence", "may only contain objects with key-value pairs"},
		{"evidence_supported.0.evidence_class", "magic", "/evidence/0/evidence_class", "is not a permitted value"},
		{"evidence_supported.0.evidence_class", nil, "/evidence/0/evidence_class", "is required"},
		{"evidence_supported.0.evidence_type", nil, "/evidence/0/evidence_type", "is required"},
		{"evidence_supported.0.capabilities", nil, item, "is required"},
		{quoteCaps + ".signature_schemes", nil, item + "/signature_schemes", "is required"},
		{quoteCaps + ".signature_schemes", []any{}, item + "/signature_schemes", "is required"},
		{quoteCaps + ".hash_algorithms", nil, item + "/hash_algorithms", "is required"},
		{quoteCaps + ".hash_algorithms", "sha256", item + "/hash_algorithms", "must be a valid JSON array"},
		{quoteCaps + ".available_subjects", nil, item + "/available_subjects", "is required"},
		{quoteCaps + ".available_subjects", []int{1}, item + "/available_subjects", "must be a valid JSON object"},
		{quoteCaps + ".available_subjects", map[string]any{"sha512": []int{10}}, item + "/available_subjects", "may only contain PCR banks for the given hash algorithms"},
		{quoteCaps + ".certification_keys", nil, item + "/certification_keys", "is required"},
		{quoteCaps + ".certification_keys", []any{}, item + "/certification_keys", "is required"},
		{keyCaps + ".key_class", nil, item + "/certification_keys/0/key_class", "is required"},
		{keyCaps + ".key_class", "magic", item + "/certification_keys/0/key_class", "is not a permitted value"},
		{keyCaps + ".key_size", nil, item + "/certification_keys/0/key_size", "is required"},
		{keyCaps + ".key_size", "big", item + "/certification_keys/0/key_size", "is of an incorrect type"},
		{keyCaps + ".key_algorithm", nil, item + "/certification_keys/0/key_algorithm", "is required"},
		{keyCaps + ".key_algorithm", "rsa2048", item + "/certification_keys/0/key_algorithm", "must be compatible with a given signature schemes"},
		{keyCaps + ".public", "!", item + "/certification_keys/0/public", "must be valid binary"},
		{keyCaps + ".allowable_signature_schemes", []string{"ecdsa"}, item + "/certification_keys/0/allowable_signature_schemes", "must not contain schemes incompatible with key_algorithm ('rsa')"},
		{imaCaps + ".entry_count", nil, "/evidence/2/capabilities/entry_count", "is required"},
		{imaCaps + ".entry_count", -1, "/evidence/2/capabilities/entry_count", "must be greater than or equal to 0"},
		{imaCaps + ".formats", nil, "/evidence/2/capabilities/formats", "is required"},
		{bootCaps + ".appendable", "yes", "/evidence/1/capabilities/appendable", "is of an incorrect type"},
		{"system_info", nil, "/system_info", "is required"},
		{"system_info.boot_time", nil, "/system_info/boot_time", "is required"},
		{"system_info.boot_time", "yesterday", "/system_info/boot_time", "must be a valid ISO8601 datetime or Unix timestamp"},
		{"system_info.boot_time", strings.Repeat("1", 1000), "/system_info/boot_time", "must be a valid ISO8601 datetime or Unix timestamp"},
		{quoteCaps + ".hash_algorithms", slices.Repeat([]string{"sha256"}, 1000), item + "/hash_algorithms", tooLong},
		{keyCaps + ".local_identifier", strings.Repeat("a", 1<<20), item + "/certification_keys/0/local_identifier", tooLong},
		{"revocation_notice_seen", -1, "/revocation_notice_seen", "must be greater than or equal to 0"},
	} {
		t.Run(fmt.Sprintf("%s = %.20v", c.path, c.value), func(t *testing.T) {
			t.Parallel()
			_, problems := parseCapabilities(genuineOffer(soft, 9).with(c.path, c.value).text(t))
			attribute, _, _ := strings.Cut(c.pointer[1:], "/")
			wantProblem(t, problems, c.pointer, "Attribute '"+attribute+"' "+c.detail+".")
		})
	}
}

// wantProblem wants the problem to be listed, as JSON:API has it.
func wantProblem(t *testing.T, problems []api.ErrorItem, pointer, detail string) {
	t.Helper()
	for _, p := range problems {
		if p.Source.Pointer == "/data/attributes"+pointer && p.Detail == detail {
			if p.Status != "422" || p.Code != "invalid_resource_data" {
				t.Errorf("status %s, code %s", p.Status, p.Code)
			}
			return
		}
	}
	t.Errorf("no problem at %s: %s\ngot %s", pointer, detail, encode(t, problems))
}

func TestBootTimes(t *testing.T) {
	t.Parallel()
	want := sample(0)
	for _, s := range []string{
		"2026-11-23T21:06:38Z", "2026-11-23T21:06:38.000000+00:00", "2026-11-23T22:06:38+01:00", "2026-11-23T21:06:38", "1795467998", "1795467998.0",
	} {
		if got, ok := parseTime(s); !ok || !got.Equal(want) {
			t.Errorf("%s: %v %v, want %v", s, got, ok, want)
		}
	}
	for _, s := range []string{"", "now", "-1", "NaN", "Inf", "1e300", "0000-00-00T00:00:00Z", "2026-13-01T00:00:00Z"} {
		if got, ok := parseTime(s); ok {
			t.Errorf("%q is read as %v", s, got)
		}
	}
}

// Whatever an agent says that it can give: negotiation asks for nothing that the AK cannot sign or the policies do not
// need.
func FuzzNegotiation(f *testing.F) {
	soft := softTPM(f, "ecc256")
	f.Add([]byte(genuineOffer(soft, 9).text(f)))
	f.Add([]byte(genuineOffer(soft, 0).with(keyCaps+".public", "00ff").text(f)))
	f.Add([]byte(`{"evidence_supported":[{"evidence_class":"log","evidence_type":"ima_log","capabilities":{}}]}`))
	f.Fuzz(func(t *testing.T, text []byte) {
		sent, err := jsonapi.Parse(`{"data":{"type":"attestation","attributes":` + string(text) + `}}`)
		if err != nil || sent.Type != "attestation" {
			return
		}
		given, problems := parseCapabilities(json.RawMessage(sent.Attributes))
		if problems != nil {
			return
		}
		items, problems := negotiate(given, genuineTerms(soft))
		if len(problems) > 0 != (len(items) == 0) {
			t.Fatalf("%d items, %d problems", len(items), len(problems))
		}
		if len(items) > 0 {
			checkChoice(t, items, "tpm_quote uefi_log ima_log", "", 0)
		}
	})
}

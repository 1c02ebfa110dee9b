package verifier

import (
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"keylime/internal/api"
)

// Capabilities are what an agent says that it can give, read with the field rules of the wire. Whatever is wrong is
// reported, each with a pointer to its place; the pointers name evidence as the record has it, "/evidence/0/…".

// capabilities is the request that opens an attestation.
type capabilities struct {
	items      []offered
	boot       time.Time
	extensions []string
	noticeSeen uint64
}

// offered is one piece of evidence that an agent can give. Of the two fields, its class has one.
type offered struct {
	class, kind string
	quote       api.QuoteCapabilities
	log         api.LogCapabilities
}

// is reports whether the item is of the class and type.
func (o offered) is(class, kind string) bool { return o.class == class && o.kind == kind }

// form collects what is wrong with a request's attributes.
type form struct{ errors []api.ErrorItem }

// refuse notes what is wrong, and where: below "/data/attributes".
func (f *form) refuse(pointer, problem string) {
	if len(f.errors) >= maxFormErrors {
		return
	}
	attribute, _, _ := strings.Cut(strings.TrimPrefix(pointer, "/"), "/")
	f.errors = append(f.errors, api.ErrorItem{
		Status: "422", Code: "invalid_resource_data",
		Detail: fmt.Sprintf("Attribute '%s' %s.", attribute, problem),
		Source: &api.ErrorSource{Pointer: "/data/attributes" + pointer},
	})
}

// The problems that fields have, in the words of the wire.
const (
	isRequired      = "is required"
	notArray        = "must be an array"
	notObjects      = "may only contain objects with key-value pairs"
	notPermitted    = "is not a permitted value"
	notBinary       = "must be valid binary"
	wrongType       = "is of an incorrect type"
	notJSONArray    = "must be a valid JSON array"
	notJSONObject   = "must be a valid JSON object"
	notTime         = "must be a valid ISO8601 datetime or Unix timestamp"
	tooLong         = "is longer than any that is in use"
	wrongCount      = "must contain a number of elements equal to that which were requested"
	wrongOrder      = "must appear in the same order as the evidence requested"
	tooFewPCRs      = "must contain at least the PCRs requested"
	evidencePointer = "/evidence"
)

// object is a JSON object whose members are read one by one.
type object struct {
	form    *form
	at      string
	members map[string]json.RawMessage
}

// object reads a member as an object; false, reported, when it is none.
func (f *form) object(at string, text json.RawMessage, problem string) (object, bool) {
	o := object{form: f, at: at}
	if absent(text) {
		f.refuse(at, isRequired)
		return o, false
	}
	if text[0] != '{' || json.Unmarshal(text, &o.members) != nil {
		f.refuse(at, problem)
		return o, false
	}
	return o, true
}

// absent reports whether a member is not there; null is as good as that.
func absent(text json.RawMessage) bool { return len(text) == 0 || string(text) == "null" }

// read decodes a member into v; false when it is absent, which is reported when it must be there, or wrong.
func (o object) read(name string, v any, must bool, problem string) bool {
	text := o.members[name]
	switch {
	case absent(text) && must:
		o.form.refuse(o.at+"/"+name, isRequired)
		return false
	case absent(text):
		return false
	case json.Unmarshal(text, v) != nil:
		o.form.refuse(o.at+"/"+name, problem)
		return false
	}
	return true
}

// text reads a short string.
func (o object) text(name string, must bool, most int) string {
	var s string
	o.read(name, &s, must, wrongType)
	if len(s) > most {
		o.form.refuse(o.at+"/"+name, tooLong)
		return ""
	}
	return s
}

// texts reads a list of short names.
func (o object) texts(name string, must bool) []string {
	var list []string
	if !o.read(name, &list, must, notJSONArray) {
		return nil
	}
	long := slices.ContainsFunc(list, func(s string) bool { return len(s) > maxFormName })
	switch {
	case must && len(list) == 0:
		o.form.refuse(o.at+"/"+name, isRequired)
	case long || len(list) > maxFormList:
		o.form.refuse(o.at+"/"+name, tooLong)
		return nil
	}
	return list
}

// count reads a number of entries; nil when there is none.
func (o object) count(name string, must bool) *uint64 {
	var n int64
	if !o.read(name, &n, must, wrongType) {
		return nil
	}
	if n < 0 {
		o.form.refuse(o.at+"/"+name, "must be greater than or equal to 0")
		return nil
	}
	entries := uint64(n)
	return &entries
}

// parseCapabilities reads the attributes of a request. Their text is valid JSON without duplicate names.
func parseCapabilities(attributes json.RawMessage) (capabilities, []api.ErrorItem) {
	var c capabilities
	f := &form{}
	all, ok := f.object("", attributes, notJSONObject)
	if !ok {
		return c, f.errors
	}
	var items []json.RawMessage
	all.members["evidence"] = all.members["evidence_supported"] // errors point to the record's name
	if all.read("evidence", &items, true, notArray) {
		switch {
		case len(items) == 0:
			f.refuse(evidencePointer, isRequired)
		case len(items) > maxEvidenceItems:
			f.refuse(evidencePointer, tooLong)
			items = nil
		}
	}
	for i, text := range items {
		c.items = append(c.items, f.offered(i, text))
	}
	if system, ok := f.object("/system_info", all.members["system_info"], notJSONObject); ok {
		c.boot = system.time("boot_time")
	}
	c.extensions = all.texts("extensions", false)
	if seen := all.count("revocation_notice_seen", false); seen != nil {
		c.noticeSeen = *seen
	}
	return c, f.errors
}

// time reads a point in time: ISO 8601, without a zone in UTC, or Unix seconds.
func (o object) time(name string) time.Time {
	text := o.members[name]
	if absent(text) {
		o.form.refuse(o.at+"/"+name, isRequired)
		return time.Time{}
	}
	s := strings.Trim(string(text), `"`)
	if t, ok := parseTime(s); ok && len(s) <= maxFormName {
		return t
	}
	o.form.refuse(o.at+"/"+name, notTime)
	return time.Time{}
}

// parseTime reads a time in one of the forms that the wire has.
func parseTime(s string) (time.Time, bool) {
	for _, layout := range []string{time.RFC3339Nano, "2006-01-02T15:04:05.999999999", "2006-01-02 15:04:05.999999999Z07:00", "2006-01-02 15:04:05.999999999"} {
		if t, err := time.Parse(layout, s); err == nil {
			return t.UTC(), t.Year() > 0
		}
	}
	seconds, err := strconv.ParseFloat(s, 64)
	if err != nil || !(seconds > 0 && seconds < maxUnixTime) {
		return time.Time{}, false
	}
	return time.UnixMicro(int64(seconds * 1e6)).UTC(), true
}

// offered reads one item.
func (f *form) offered(i int, text json.RawMessage) offered {
	at := fmt.Sprintf("%s/%d", evidencePointer, i)
	var out offered
	var item object
	if absent(text) || text[0] != '{' || json.Unmarshal(text, &item.members) != nil {
		f.refuse(evidencePointer, notObjects)
		return out
	}
	item.form, item.at = f, at
	out.class = strings.ToLower(item.text("evidence_class", true, maxFormName))
	out.kind = item.text("evidence_type", true, maxFormName)
	given, ok := f.object(at+"/capabilities", item.members["capabilities"], notJSONObject)
	switch {
	case out.class != "" && out.class != api.ClassCertification && out.class != api.ClassLog:
		f.refuse(at+"/evidence_class", notPermitted)
	case ok && out.is(api.ClassCertification, api.EvidenceQuote):
		out.quote = given.quote()
	case ok && out.is(api.ClassLog, api.EvidenceBootLog), ok && out.is(api.ClassLog, api.EvidenceIMA):
		out.log = given.log(out.kind)
	}
	return out // of a type that nobody here knows: left to newer verifiers
}

// log reads the capabilities of a log.
func (o object) log(kind string) api.LogCapabilities {
	var c api.LogCapabilities
	o.read("supports_partial_access", &c.Partial, false, wrongType)
	o.read("appendable", &c.Appendable, false, wrongType)
	c.EntryCount = o.count("entry_count", kind == api.EvidenceIMA)
	if c.Partial && kind != api.EvidenceIMA && absent(o.members["entry_count"]) {
		o.form.refuse(o.at+"/entry_count", "is required when supports_partial_access is true")
	}
	c.Formats = o.texts("formats", kind == api.EvidenceIMA)
	return c
}

// quote reads the capabilities of a TPM.
func (o object) quote() (c api.QuoteCapabilities) {
	c.ComponentVersion = o.text("component_version", false, maxFormName)
	c.SignatureSchemes = o.texts("signature_schemes", true)
	c.HashAlgorithms = o.texts("hash_algorithms", true)
	var subjects map[string][]int
	if o.read("available_subjects", &subjects, true, notJSONObject) {
		c.Subjects = o.subjects(subjects, c.HashAlgorithms)
	}
	var keys []json.RawMessage
	if o.read("certification_keys", &keys, true, notJSONArray) {
		switch {
		case len(keys) == 0:
			o.form.refuse(o.at+"/certification_keys", isRequired)
		case len(keys) > maxOfferedKeys:
			o.form.refuse(o.at+"/certification_keys", tooLong)
			keys = nil
		}
	}
	for i, text := range keys {
		at := fmt.Sprintf("%s/certification_keys/%d", o.at, i)
		if key, ok := o.form.object(at, text, notJSONObject); ok {
			c.Keys = append(c.Keys, key.key(c.SignatureSchemes))
		}
	}
	return c
}

// subjects checks the PCRs that a TPM has, by bank.
func (o object) subjects(banks map[string][]int, hashes []string) map[string][]int {
	if len(banks) > maxFormList {
		o.form.refuse(o.at+"/available_subjects", tooLong)
		return nil
	}
	for bank, pcrs := range banks {
		if len(bank) > maxFormName || len(pcrs) > maxFormList {
			o.form.refuse(o.at+"/available_subjects", tooLong)
			return nil
		}
		if !slices.Contains(hashes, bank) {
			o.form.refuse(o.at+"/available_subjects", "may only contain PCR banks for the given hash algorithms")
			return nil
		}
	}
	return banks
}

// key reads a certification key.
func (o object) key(schemes []string) api.CertificationKey {
	k := api.CertificationKey{
		Class:            strings.ToLower(o.text("key_class", true, maxFormName)),
		ServerIdentifier: o.text("server_identifier", false, maxKeyText),
		LocalIdentifier:  o.text("local_identifier", false, maxKeyText),
		Schemes:          o.texts("allowable_signature_schemes", false),
		Hashes:           o.texts("allowable_hash_algorithms", false),
		Public:           o.text("public", false, maxKeyText),
	}
	asymmetric := k.Class == "asymmetric"
	k.Algorithm = o.text("key_algorithm", asymmetric, maxFormName)
	o.read("key_size", &k.Size, true, wrongType)
	if k.Class != "" && !asymmetric && k.Class != "symmetric" {
		o.form.refuse(o.at+"/key_class", notPermitted)
	}
	if asymmetric && k.ServerIdentifier == "" && k.LocalIdentifier == "" && k.Public == "" {
		for _, name := range []string{"server_identifier", "local_identifier", "public"} {
			o.form.refuse(o.at+"/"+name, isRequired+" when key_class is 'asymmetric' and the key is not identified otherwise")
		}
	}
	if _, ok := decodeBinary(k.Public); !ok {
		o.form.refuse(o.at+"/public", notBinary)
	}
	if k.Algorithm != "" && len(schemes) > 0 && !slices.ContainsFunc(schemes, func(s string) bool { return familyOf(s) == k.Algorithm }) {
		o.form.refuse(o.at+"/key_algorithm", "must be compatible with a given signature schemes")
	}
	for _, s := range k.Schemes {
		if family := familyOf(s); family != "" && family != k.Algorithm {
			o.form.refuse(o.at+"/allowable_signature_schemes",
				fmt.Sprintf("must not contain schemes incompatible with key_algorithm ('%s')", clip(k.Algorithm)))
			break
		}
	}
	return k
}

// familyOf is the algorithm of the keys that sign by a scheme; "" for a scheme that the wire does not know.
func familyOf(scheme string) string {
	switch scheme {
	case "rsassa", "rsapss":
		return "rsa"
	case "ecdsa", "ecdaa", "ecschnorr":
		return "ecc"
	}
	return ""
}

// decodeBinary reads bytes as the wire has them: base64, else hex.
func decodeBinary(s string) ([]byte, bool) {
	if b, err := base64.StdEncoding.Strict().DecodeString(s); err == nil && !strings.ContainsAny(s, "\r\n") {
		return b, true
	}
	b, err := hex.DecodeString(strings.TrimPrefix(s, "0x"))
	return b, err == nil
}

package policy

import (
	"encoding/hex"
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"keylime/internal/strictjson"
	"keylime/internal/uefi"
	"keylime/tpm"
)

// Texts of measured-boot policies are read into trees of uefi.Object, []any, string, json.Number, bool and nil.

// readBootText reads a policy's text; nil for one that asks for nothing.
func readBootText(text []byte) (uefi.Object, error) {
	if len(text) > maxBootBytes {
		return nil, &Error{fmt.Sprintf("measured boot policy of %d bytes exceeds %d", len(text), maxBootBytes)}
	}
	source := string(text)
	switch trimmed := strings.TrimSpace(source); {
	case trimmed == "" || trimmed == "null":
		return nil, nil
	case isBootTOML(trimmed):
		var err error
		if source, err = bootTOMLToJSON(source); err != nil {
			return nil, &Error{"measured boot policy: " + err.Error()}
		}
	}
	r := strictjson.NewReader(source, maxDepth)
	tree, err := readTree(r)
	if err == nil {
		err = r.End()
	}
	if err != nil {
		return nil, &Error{"measured boot policy: " + err.Error()}
	}
	object, ok := tree.(uefi.Object)
	if !ok {
		return nil, &Error{"measured boot policy: want a JSON object, not " + kindOf(tree)}
	}
	return object, nil
}

func readTree(r *strictjson.Reader) (any, error) {
	switch r.Kind() {
	case strictjson.Object:
		object := uefi.Object{}
		err := r.Object(func(name string) error {
			value, err := readTree(r)
			object = append(object, uefi.Field{Name: name, Value: value})
			return err
		})
		return object, err
	case strictjson.Array:
		list := []any{}
		err := r.Array(func() error {
			value, err := readTree(r)
			list = append(list, value)
			return err
		})
		return list, err
	case strictjson.String:
		return r.String()
	case strictjson.Number:
		text, err := r.Number()
		return json.Number(text), err
	case strictjson.Bool:
		return r.Bool()
	}
	return nil, r.Skip() // null, or what is no value
}

func kindOf(tree any) string {
	switch v := tree.(type) {
	case uefi.Object:
		return "an object"
	case []any:
		return "a list"
	case string:
		return "a string"
	case json.Number:
		return "the number " + clipText(v.String())
	case bool:
		return strconv.FormatBool(v)
	}
	return "null"
}

// truth is Python's truth value of a JSON value.
func truth(tree any) bool {
	switch v := tree.(type) {
	case uefi.Object:
		return len(v) > 0
	case []any:
		return len(v) > 0
	case string:
		return v != ""
	case json.Number:
		f, err := v.Float64()
		return err != nil || f != 0
	case bool:
		return v
	}
	return false
}

// bootFault is a fault at a place in a policy, written as in "kernels[0].kernel_cmdline: …".
type bootFault struct{ path, text string }

func (f *bootFault) Error() string {
	if f.path == "" {
		return f.text
	}
	return f.path + ": " + f.text
}

func faultf(format string, args ...any) error { return &bootFault{text: fmt.Sprintf(format, args...)} }

// within puts a step before the place of a fault.
func within(step string, err error) error {
	f, ok := err.(*bootFault)
	if !ok {
		return err
	}
	path := step
	switch {
	case strings.HasPrefix(f.path, "["), f.path == "":
		path += f.path
	default:
		path += "." + f.path
	}
	return &bootFault{path, f.text}
}

func index(i int) string { return "[" + strconv.Itoa(i) + "]" }

// The readers of values that rules compare with.

func stringOf(tree any) (string, error) {
	s, ok := tree.(string)
	if !ok {
		return "", faultf("want a string, not %s", kindOf(tree))
	}
	return s, nil
}

func listOf(tree any) ([]any, error) {
	list, ok := tree.([]any)
	if !ok {
		return nil, faultf("want a list, not %s", kindOf(tree))
	}
	return list, nil
}

func intOf(tree any) (uint64, error) {
	n, _ := tree.(json.Number)
	v, err := strconv.ParseUint(n.String(), 10, 64)
	if err != nil {
		return 0, faultf("want a whole number, not %s", kindOf(tree))
	}
	return v, nil
}

// hexOf reads bytes as reference states write them, "0x" and lower-case digits.
func hexOf(tree any) ([]byte, error) {
	s, err := stringOf(tree)
	if err != nil {
		return nil, err
	}
	digits, ok := strings.CutPrefix(s, "0x")
	b, err := hex.DecodeString(digits)
	if !ok || err != nil || digits != strings.ToLower(digits) {
		return nil, faultf("want 0x and lower-case hex digits, not %q", clipText(s))
	}
	return b, nil
}

// fieldOf reads a field that must be there.
func fieldOf[T any](tree any, name string, read func(any) (T, error)) (value T, err error) {
	object, ok := tree.(uefi.Object)
	if !ok {
		return value, faultf("want an object, not %s", kindOf(tree))
	}
	field, ok := object.Get(name)
	if !ok {
		return value, faultf("%q is missing", name)
	}
	if value, err = read(field); err != nil {
		return value, within(name, err)
	}
	return value, nil
}

// digestSet holds accepted digests by algorithm: the algorithm's two bytes, then the digest.
type digestSet map[string]struct{}

func digestKey(alg tpm.Hash, value []byte) string {
	return string(append([]byte{byte(alg >> 8), byte(alg)}, value...))
}

// digestsOf reads one digest, a map of algorithm to hex, or a list of them.
func digestsOf(tree any) (digestSet, error) {
	set := digestSet{}
	if list, ok := tree.([]any); ok {
		for i, d := range list {
			if err := set.add(d); err != nil {
				return nil, within(index(i), err)
			}
		}
		return set, nil
	}
	return set, set.add(tree)
}

func (s digestSet) add(tree any) error {
	digest, ok := tree.(uefi.Object)
	if !ok {
		return faultf("want a digest as in {\"sha256\": \"0x…\"}, not %s", kindOf(tree))
	}
	for _, f := range digest {
		value, err := hexOf(f.Value)
		if err != nil {
			return within(f.Name, err)
		}
		if f.Name == "sm3_256" { // no quote of that bank can be verified here
			continue
		}
		alg, err := tpm.ParseHash(f.Name)
		if err != nil {
			return faultf("hash algorithm %q is unknown", clipText(f.Name))
		}
		if len(value) != alg.Size() {
			return within(f.Name, faultf("digest of %d bytes, want %d", len(value), alg.Size()))
		}
		s[digestKey(alg, value)] = struct{}{}
	}
	return nil
}

// signatureKey identifies a signature: its owner, then its data.
func signatureKey(s uefi.Signature) string { return string(appendSignatureKey(nil, s)) }

func appendSignatureKey(b []byte, s uefi.Signature) []byte {
	return append(append(b, s.Owner[:]...), s.Data...)
}

// maxKeyOnStack holds the key of a signature that is a digest; those of certificates are allocated.
const maxKeyOnStack = 128

// signaturesOf reads a list of {SignatureOwner, SignatureData}.
func signaturesOf(tree any) ([]uefi.Signature, error) {
	list, err := listOf(tree)
	if err != nil {
		return nil, err
	}
	signatures := make([]uefi.Signature, 0, len(list))
	for i, entry := range list {
		owner, err := fieldOf(entry, "SignatureOwner", guidOf)
		if err != nil {
			return nil, within(index(i), err)
		}
		data, err := fieldOf(entry, "SignatureData", hexOf)
		if err != nil {
			return nil, within(index(i), err)
		}
		signatures = append(signatures, uefi.Signature{Owner: owner, Data: data})
	}
	return signatures, nil
}

// signatureSet holds signatures under their owner's GUID and under the same bytes in memory order, as reference states
// made from older tools' output have it.
func signatureSet(list []uefi.Signature) map[string]struct{} {
	set := make(map[string]struct{}, 2*len(list))
	for _, s := range list {
		set[signatureKey(s)] = struct{}{}
		set[signatureKey(uefi.Signature{Owner: s.Owner.Swapped(), Data: s.Data})] = struct{}{}
	}
	return set
}

// guidNames may stand for GUIDs in rules.
var guidNames = []struct{ name, guid string }{
	{"EFI_GLOBAL_VARIABLE", "8be4df61-93ca-11d2-aa0d-00e098032b8c"},
	{"EFI_IMAGE_SECURITY_DATABASE", "d719b2cb-3d3a-4596-a3bc-dad00e67656f"},
	{"SHIM_LOCK", "605dab50-e046-4300-abb6-3dd810dd8b23"},
	{"EFI_CERT_X509", "a5c059a1-94e4-4aa7-87b5-ab155c2bf072"},
	{"EFI_CERT_SHA256", "c1c41626-504c-4092-aca9-41f936934328"},
}

// guidOf reads a GUID or the name of a well-known one.
func guidOf(tree any) (uefi.GUID, error) {
	s, err := stringOf(tree)
	if err != nil {
		return uefi.GUID{}, err
	}
	for _, known := range guidNames {
		if s == known.name {
			s = known.guid
		}
	}
	g, err := uefi.ParseGUID(s)
	if err != nil {
		return g, faultf("%v", err)
	}
	return g, nil
}

// eventTypeOf reads the TCG's name of an event type.
func eventTypeOf(tree any) (string, error) {
	s, err := stringOf(tree)
	if err == nil && !slices.Contains(uefi.EventTypes(), s) {
		err = faultf("%q is not the name of an event type", clipText(s))
	}
	return s, err
}

package policy

import (
	"strings"
	"testing"
)

// with returns the empty policy's text with one part replaced.
func with(part, replacement string) string {
	if !strings.Contains(EmptyRuntime, part) {
		panic("no such part: " + part)
	}
	return strings.Replace(EmptyRuntime, part, replacement, 1)
}

func TestRuntimeViolationsHaveKeylimesTexts(t *testing.T) {
	t.Parallel()
	const malformatted = "Runtime policy is malformatted: "
	for _, c := range []struct{ name, text, want string }{
		{"nothing", "", "No IMA policy provided!"},
		{"not JSON", "{", "Runtime policy is not valid JSON! byte 1: want a string"},
		{"array", "[]", malformatted + "[] is not of type 'object'"},
		{"null", "null", malformatted + "None is not of type 'object'"},
		{"empty object", "{}", malformatted + "'meta' is a required property"},
		{"no generator", with(`,"generator":1`, ``), malformatted + "'generator' is a required property"},
		{"version", with(`"version":1`, `"version":-1`), malformatted + "-1 is less than the minimum of 0"},
		{"generator", with(`"generator":1`, `"generator":4`), malformatted + "4 is greater than the maximum of 3"},
		{"boolean for integer", with(`"release":0`, `"release":true`), malformatted + "True is not of type 'integer'"},
		{"fraction for integer", with(`"release":0`, `"release":1.5`), malformatted + "1.5 is not of type 'integer'"},
		{"overflow", with(`"release":0`, `"release":1e999`), malformatted + "1e999 is not of type 'integer'"},
		{"no digests", with(`"digests":{}`, `"digests":{"/a":[]}`), malformatted + "[] should be non-empty"},
		{"digest", with(`"digests":{}`, `"digests":{"/a":["zz"]}`), malformatted + "'zz' does not match '^[0-9a-f]{40,128}$'"},
		{"upper-case digest", with(`"digests":{}`, `"digests":{"/a":["`+strings.Repeat("A", 40)+`"]}`),
			malformatted + "'" + strings.Repeat("A", 40) + "' does not match '^[0-9a-f]{40,128}$'"},
		{"log hash", with(`"sha1"`, `"sm3_256"`), malformatted + "'sm3_256' is not one of ['sha1', 'sha256', 'sha384', 'sha512']"},
		{"device-mapper policy", with(`"dm_policy":null`, `"dm_policy":{"version": 1}`), malformatted + "{'version': 1} is not of type 'null'"},
		{"excludes", with(`"excludes":[]`, `"excludes":[["a", null]]`), malformatted + "['a', None] is not of type 'string'"},
		{"keys", with(`"verification-keys":""`, `"verification-keys":"[]"`), malformatted + "[] is not of type 'object'"},
		{"keys without ids", with(`"verification-keys":""`, `"verification-keys":"{\"pubkeys\":[]}"`), malformatted + "'keyids' is a required property"},
		{"keys not JSON", with(`"verification-keys":""`, `"verification-keys":"x"`), malformatted + "verification-keys: byte 0: want a value"},
		{"nearest to the root first", `{"digests":{"/a":[]},"meta":{}}`, malformatted + "'release' is a required property"},
		// NT-41
		{"name twice", with(`"release":0`, `"release":0,"release":1`), `Runtime policy is not valid JSON! byte 48: name "release" stands twice in one object`},
		{"path twice", with(`"digests":{}`, `"digests":{"/a":["`+strings.Repeat("a", 64)+`"],"/a":["`+strings.Repeat("b", 64)+`"]}`),
			`Runtime policy is not valid JSON! byte 133: name "/a" stands twice in one object`},
		{"data after the policy", EmptyRuntime + "{}", "Runtime policy is not valid JSON! byte 194: data after the value"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			_, err := CompileRuntime([]byte(c.text))
			if err == nil || err.Error() != c.want {
				t.Errorf("got  %v\nwant %s", err, c.want)
			}
		})
	}
}

package api_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"keylime/internal/api"
)

func TestNegotiate(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name          string
		local, remote string
		want          string
	}{
		{"the newest that both know", "2.0 2.1 2.2", "2.1 2.2 2.3", "2.2"},
		{"in any order", "2.2 2.0 2.1", "2.1 2.0", "2.1"},
		{"another major", "2.6", "1.0 3.0", ""},
		{"empty list", "2.6", "", ""},
		{"a claim of everything", "2.1 2.6", "v99 99.9 2.6x 2.66 2.1", "2.1"}, // NT-58
		{"malformed entries", "2.6", "2.6. .6 2. 2,6 ²·⁶ -2.6 +2.6", ""},
		{"the same twice", "2.6", "2.6 2.6", "2.6"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			got, err := api.Negotiate(strings.Fields(tt.local), strings.Fields(tt.remote))
			if got != tt.want || (err == nil) != (tt.want != "") || err != nil && !errors.Is(err, api.ErrNoCommonVersion) {
				t.Errorf("Negotiate = %q, %v, want %q", got, err, tt.want)
			}
		})
	}
}

func ExampleNegotiate() {
	agent := api.AgentVersion{Supported: "2.3", List: []string{"2.1", "2.2", "2.3"}}
	v, err := api.Negotiate(api.AgentVersions, agent.Offered())
	fmt.Println(v, err)
	// Output: 2.3 <nil>
}

func TestNewer(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		a, b string
		want bool
	}{
		{"2.6", "2.5", true}, {"2.5", "2.6", false}, {"2.6", "2.6", false}, {"3.0", "2.6", true}, {"2.6", "", true},
		{"2.6", "nonsense", true}, {"nonsense", "2.6", false}, {"2.10", "2.9", false}, {"", "", false},
	} {
		if got := api.Newer(tt.a, tt.b); got != tt.want {
			t.Errorf("Newer(%q, %q) = %v", tt.a, tt.b, got)
		}
	}
}

func TestOffered(t *testing.T) {
	t.Parallel()
	for want, v := range map[string]api.AgentVersion{
		"[2.1 2.2]": {Supported: "2.2", List: []string{"2.1", "2.2"}}, "[2.0]": {Supported: "2.0"}, "[]": {},
	} {
		if got := fmt.Sprint(v.Offered()); got != want {
			t.Errorf("%+v offers %s, want %s", v, got, want)
		}
	}
}

// NT-11
func TestIDs(t *testing.T) {
	t.Parallel()
	for id, want := range map[string]bool{
		"d432fbb3-d2f1-4a97-9ef7-75bd81c00000": true, "a": true, "A_b.c-9": true, "...": true, strings.Repeat("a", 80): true,
		"": false, ".": false, "..": false, "a/b": false, `a\b`: false, "a b": false, "a\n": false, "é": false, "a\x00": false,
		"a%2fb": false, strings.Repeat("a", 81): false, "\u202e": false,
	} {
		if got := api.ValidAgentID(id); got != want {
			t.Errorf("ValidAgentID(%q) = %v", id, got)
		}
	}
	if !api.ValidPolicyName(strings.Repeat("p", 255)) || api.ValidPolicyName(strings.Repeat("p", 256)) || api.ValidPolicyName("a;drop") {
		t.Error("policy names: 255 of the characters of ids") // NT-92
	}
}

// NT-13
func TestParsePort(t *testing.T) {
	t.Parallel()
	for raw, want := range map[string]int{
		"9002": 9002, `"9002"`: 9002, "1": 1, "65535": 65535,
		"0": 0, "65536": 0, "-1": 0, `"9002x"`: 0, "null": 0, `""`: 0, "": 0, "09": 0, "9e3": 0, `"+1"`: 0, `"`: 0, "99999999999999999999": 0,
	} {
		if got, ok := api.ParsePort([]byte(raw)); ok != (want != 0) || ok && got != want {
			t.Errorf("ParsePort(%s) = %d, %v", raw, got, ok)
		}
	}
}

func ExampleURL() {
	fmt.Println(api.URL("https", "192.0.2.1", 9002))
	fmt.Println(api.URL("https", "2001:db8::1", 9002))
	fmt.Println(api.URL("https", "[2001:db8::1]", 9002))
	// Output:
	// https://192.0.2.1:9002
	// https://[2001:db8::1]:9002
	// https://[2001:db8::1]:9002
}

package config

import (
	"slices"
	"strings"
	"testing"
)

// NT-83: tokens and evidence cross a network under TLS only.
func TestVerifierURLs(t *testing.T) {
	t.Parallel()
	load := func(value string) (Agent, error) {
		a, _, err := LoadAgent(machine(t, nil, "KEYLIME_AGENT_VERIFIER_URL="+value))
		return a, err
	}
	for value, want := range map[string][]string{
		"https://verifier.example.org:8881/":                    {"https://verifier.example.org:8881"},
		"https://a:8881, https://b/keylime/":                    {"https://a:8881", "https://b/keylime"},
		`["https://a:8881", "https://[2001:db8::1]:8881"]`:      {"https://a:8881", "https://[2001:db8::1]:8881"},
		"http://127.0.0.1:8881 http://[::1]:1 http://localhost": {"http://127.0.0.1:8881", "http://[::1]:1", "http://localhost"},
		"": {"https://localhost:8881"},
	} {
		if a, err := load(value); err != nil || !slices.Equal(a.Calling.VerifierURLs, want) {
			t.Errorf("%s: %q, %v; want %q", value, a.Calling.VerifierURLs, err, want)
		}
	}
	for value, why := range map[string]string{
		"http://verifier.example.org:8881": "use https",
		"http://10.0.0.1":                  "use https",
		"http://127.0.0.1.example.org":     "use https",
		"https://a, http://localhost.b":    "use https",
		"ftp://a":                          "no URL such as",
		"verifier:8881":                    "no URL such as",
		"https://user:pw@a":                "no URL such as",
		"https://a?x=1":                    "no URL such as",
	} {
		if _, err := load(value); err == nil || !strings.Contains(err.Error(), why) {
			t.Errorf("%s: %v, want %q", value, err, why)
		}
	}
}

func TestProxyPasswordIsShownToNobody(t *testing.T) {
	t.Parallel()
	_, report, err := LoadAgent(machine(t, nil, "KEYLIME_AGENT_VERIFIER_PROXY=http://user:geheim@proxy:3128"))
	if err != nil {
		t.Fatal(err)
	}
	var out strings.Builder
	if err := report.Show(&out); err != nil || strings.Contains(out.String(), "geheim") {
		t.Errorf("%v\n%s", err, out.String())
	}
	if _, _, err := LoadAgent(machine(t, nil, "KEYLIME_AGENT_VERIFIER_PROXY=socks://user:geheim@proxy")); err == nil || strings.Contains(err.Error(), "geheim") {
		t.Errorf("a proxy of another kind: %v", err)
	}
	if _, report, err := LoadAgent(machine(t, nil, "KEYLIME_AGENT_TLS_ACCEPT_INVALID_CERTS=True")); err != nil || len(report.Warnings) != 1 {
		t.Errorf("any certificate is accepted with the warnings %q, %v", report.Warnings, err)
	}
}

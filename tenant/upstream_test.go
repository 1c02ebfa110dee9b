package tenant

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestUpstreamCommandLines(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		line    string
		command string
		want    options
	}{
		{"-c add -t 127.0.0.1 -tp 9002 -u X -f payload.txt --verify", "add",
			options{agentIP: "127.0.0.1", agentPort: "9002", agent: "X", file: "payload.txt", verify: true}},
		{"-t 127.0.0.1", "add", options{agentIP: "127.0.0.1"}},
		{"--command=cvstatus --uuid=X", "cvstatus", options{agent: "X"}},
		{"-cstatus -uX", "status", options{agent: "X"}},
		{"-c=status -u=X", "status", options{agent: "X"}},
		{"-c delete -nvc -v 10.0.0.1 -vp 8881 -vi default", "delete",
			options{noVerifierCheck: true, verifierIP: "10.0.0.1", verifierPort: "8881", verifierID: "default"}},
		{"-c reglist -r 10.0.0.2 -rp 8891", "reglist", options{registrarIP: "10.0.0.2", registrarPort: "8891"}},
		{"-c add --cert default --incl dir --cv_t 10.0.0.3", "add", options{certDir: "default", include: "dir", verifiersViewOfHost: "10.0.0.3"}},
		{"-c add -k keys -p payload --runtime-policy p.json --runtime-policy-n prod", "add",
			options{keyFile: "keys", payload: "payload", runtimePolicy: "p.json", runtimePolicyName: "prod"}},
		{`-c add --tpm_policy {"22":"aa"} --mb_refstate boot.json`, "add", options{tpmPolicy: `{"22":"aa"}`, mbPolicy: "boot.json"}},
		{"-c add --mb-policy boot.json", "add", options{mbPolicy: "boot.json"}},
		{"-c add -f -1", "add", options{file: "-1"}},
		{"-c add -u A -u B", "add", options{agent: "B"}},
		{"-c add --push-model --agent-api 2.4", "add", options{pushModel: true, agentAPIVersion: "2.4"}},
		{"-c cvstatus --json", "cvstatus", options{json: true}},
		{"-h", "add", options{help: true}},
		{"-c add --sign_verification_key a --signature-verification-key b", "add", options{imaKeys: []string{"a", "b"}}},
	} {
		command, got, err := parseUpstream(strings.Fields(c.line))
		if err != nil {
			t.Errorf("%s: %v", c.line, err)
			continue
		}
		if command != c.command {
			t.Errorf("%s: command %q, want %q", c.line, command, c.command)
		}
		if diff := cmp.Diff(c.want, got, cmp.AllowUnexported(options{}, retiredFlags{})); diff != "" {
			t.Errorf("%s: (-want +got)\n%s", c.line, diff)
		}
	}
}

func TestUpstreamCommandLinesRefused(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ line, wrong string }{
		{"-c", "argument -c/--command: expected one argument"},
		{"-c add -u -f x", "argument -u/--uuid: expected one argument"},
		{"-c add --runtime-pol x", "ambiguous option: --runtime-pol could match --runtime-policy, "},
		{"-c add --cv", "argument -v/--cv: expected one argument"},
		{"-c add --verify=1", "argument --verify: ignored explicit argument '1'"},
		{"-c add extra", "unrecognized arguments: extra"},
		{"-c add --frobnicate x", "unrecognized arguments: --frobnicate x"},
		{"-c add -- -u", "unrecognized arguments: -u"},
	} {
		_, _, err := parseUpstream(strings.Fields(c.line))
		if err == nil || !strings.Contains(err.Error(), c.wrong) {
			t.Errorf("%s: got %v, want an error with %q", c.line, err, c.wrong)
		} else if exitCode(err) != exitUsage {
			t.Errorf("%s: exit code %d, want %d", c.line, exitCode(err), exitUsage)
		}
	}
}

// TestFlagsAreUpstreams holds that each short form of upstream means what it means there.
func TestFlagsAreUpstreams(t *testing.T) {
	t.Parallel()
	var name string
	set := upstreamFlags(&name)
	spelled := map[string]string{}
	for _, f := range set {
		for _, s := range f.spellings() {
			if other, twice := spelled[s]; twice {
				t.Errorf("%s is a spelling of both %s and %s", s, other, f.name)
			}
			spelled[s] = f.name
		}
	}
	for short, long := range map[string]string{
		"-c": "command", "-t": "targethost", "-tp": "targetport", "-r": "registrarhost", "-rp": "registrarport",
		"-v": "cv", "-vp": "cvport", "-vi": "cvid", "-nvc": "no-verifier-check", "-u": "uuid", "-f": "file",
		"-k": "key", "-p": "payload", "-h": "help",
	} {
		if spelled[short] != long {
			t.Errorf("%s is %q, want %q", short, spelled[short], long)
		}
	}
	for _, long := range []string{"--push-model", "--cv_targethost", "--cert", "--include", "--allowlist", "--runtime-policy",
		"--signature-verification-key", "--sign_verification_key", "--mb_refstate", "--allowlist-url", "--exclude",
		"--runtime-policy-checksum", "--runtime-policy-sig-key", "--runtime-policy-url", "--tpm_policy", "--verify",
		"--allowlist-name", "--runtime-policy-name", "--mb-policy", "--mb-policy-name", "--agent-api-version", "--supported-version"} {
		if spelled[long] == "" {
			t.Errorf("%s is not known", long)
		}
	}
}

// TestEveryCommandOfUpstream holds that no command of keylime_tenant is missing.
func TestEveryCommandOfUpstream(t *testing.T) {
	t.Parallel()
	for _, name := range strings.Fields(`add update delete status cvstatus regstatus cvlist reglist bulkinfo reactivate regdelete
		addruntimepolicy showruntimepolicy deleteruntimepolicy updateruntimepolicy listruntimepolicy
		addmbpolicy showmbpolicy deletembpolicy updatembpolicy listmbpolicy addallowlist showallowlist deleteallowlist`) {
		if _, err := upstreamCommand(name); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := upstreamCommand("verify"); exitCode(err) != exitFailed || !strings.Contains(err.Error(), "Invalid command specified: verify") {
		t.Errorf("an unknown command: %v", err)
	}
}

// FuzzUpstreamCommandLine: no command line panics, and one that is accepted is accepted again.
func FuzzUpstreamCommandLine(f *testing.F) {
	for _, line := range []string{"-c add -t 1 -uX --verify", "--runtime-pol x", "-v=", "-nvc -", "--=x", "-c -- add", "-", "--mb p -tp9"} {
		f.Add(line)
	}
	f.Fuzz(func(t *testing.T, line string) {
		args := strings.Split(line, " ")
		name, o, err := parseUpstream(args)
		if err != nil {
			return
		}
		name2, o2, err := parseUpstream(args)
		if err != nil || name != name2 || !cmp.Equal(o, o2, cmp.AllowUnexported(options{}, retiredFlags{})) {
			t.Errorf("%q: accepted once only: %v", line, err)
		}
	})
}

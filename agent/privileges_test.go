package agent

import (
	"fmt"
	"os"
	"os/exec"
	"strings"
	"testing"
)

// dropInChild makes this test binary a process that drops its privileges; see TestPrivilegesAreGivenUpForGood.
const dropInChild = "KEYLIME_TEST_DROP_TO"

func TestPrivilegesAreGivenUpForGood(t *testing.T) {
	if runAs := os.Getenv(dropInChild); runAs != "" {
		id, err := parseRunAs(runAs)
		if err == nil {
			err = id.drop()
		}
		groups, _ := os.Getgroups()
		fmt.Printf("\nCHILD err=%v uid=%d gid=%d groups=%v\n", err, os.Geteuid(), os.Getegid(), groups)
		return
	}
	needRoot(t)
	t.Parallel()
	for runAs, want := range map[string]string{
		"12345:54321":    "err=<nil> uid=12345 gid=54321 groups=[54321]",
		"nobody:nogroup": "err=<nil> uid=65534 gid=65534 groups=[65534]",
		"root:root":      `err=run_as names root`,
		"0:1":            `err=run_as names root`,
	} {
		cmd := exec.Command(os.Args[0], "-test.run=^"+t.Name()+"$")
		cmd.Env = append(os.Environ(), dropInChild+"="+runAs)
		out, err := cmd.CombinedOutput()
		if err != nil || !strings.Contains(string(out), "CHILD "+want) {
			t.Errorf("%s: %v\n%swant %s", runAs, err, out, want)
		}
	}
}

// NT-73: a process that may not change its user says so; nothing goes on as before.
func TestDropFailsWithoutPrivileges(t *testing.T) {
	if os.Getenv(dropInChild) != "" {
		t.Skip("in a child")
	}
	needRoot(t)
	t.Parallel()
	// The child drops twice: the second time it has no right to.
	cmd := exec.Command("setpriv", "--reuid=12345", "--regid=12345", "--clear-groups", os.Args[0], "-test.run=^TestPrivilegesAreGivenUpForGood$")
	if cmd.Err != nil {
		t.Skip("no setpriv")
	}
	cmd.Env = append(os.Environ(), dropInChild+"=12346:12346")
	cmd.Dir = "/"
	out, err := cmd.CombinedOutput()
	if err != nil && strings.Contains(string(out), "ermission denied") {
		t.Skipf("the test binary is not readable for others: %s", out)
	}
	if !strings.Contains(string(out), "CHILD err=set supplementary groups: operation not permitted uid=12345") {
		t.Errorf("%v\n%s", err, out)
	}
}

func TestRunAsNamesUserAndGroup(t *testing.T) {
	t.Parallel()
	for runAs, want := range map[string]string{
		"":                   "want user:group",
		"nobody":             "want user:group",
		":nogroup":           "want user:group",
		"nobody:":            "want user:group",
		"no-such-user:root":  "unknown user",
		"nobody:no-such":     "unknown group",
		"4294967295:1":       "unknown user",
		"-1:1":               "unknown user",
		"nobody:4294967295":  "unknown group",
		"nobody:nogroup:tss": "unknown group",
	} {
		if id, err := parseRunAs(runAs); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: got %v, %v; want an error with %q", runAs, id, err, want)
		}
	}
}

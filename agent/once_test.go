package agent

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/urfave/cli/v2"

	"keylime/internal/api"
)

// asProgram is the variable that makes this test's executable the agent.
const asProgram = "KEYLIME_TEST_AS_AGENT"

// agentProgram runs `agent` with the arguments and returns its exit status.
func agentProgram(args []string) int {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	app := &cli.App{
		Name: "keylime", Commands: []*cli.Command{Command()}, ExitErrHandler: func(*cli.Context, error) {},
		Flags: []cli.Flag{&cli.StringFlag{Name: "config"}},
	}
	err := app.RunContext(ctx, append([]string{"keylime", "agent"}, args[1:]...))
	var coded interface{ ExitCode() int }
	if errors.As(err, &coded) {
		return coded.ExitCode()
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}

// program is the agent as a process of its own.
func (m *machine) program(args ...string) *exec.Cmd {
	m.t.Helper()
	host, port := m.registrar.address(m.t)
	dir := m.cfg.KeylimeDir
	cmd := exec.Command(os.Args[0], args...)
	cmd.Env = append(os.Environ(), asProgram+"=1", "TCTI="+m.tpm.TCTI(), "KEYLIME_DIR="+dir, "KEYLIME_AGENT_RUN_AS=",
		"KEYLIME_AGENT_REGISTRAR_IP="+host, "KEYLIME_AGENT_REGISTRAR_PORT="+strconv.Itoa(port), "KEYLIME_AGENT_UUID="+m.cfg.UUID,
		"KEYLIME_AGENT_IMA_ML_PATH="+m.cfg.IMAMLPath, "KEYLIME_AGENT_MEASUREDBOOT_ML_PATH="+m.cfg.MeasuredBootMLPath,
		"KEYLIME_AGENT_TPM_ENCRYPTION_ALG=ecc256", "KEYLIME_AGENT_TPM_SIGNING_ALG=ecdsa",
		"KEYLIME_AGENT_VERIFIER_TLS_CA_CERT="+filepath.Join(m.caDir, "cacert.crt"), "KEYLIME_AGENT_ATTESTATION_INTERVAL_SECONDS=1",
		"KEYLIME_LOGGING_LEVEL=info")
	return cmd
}

// `agent --push --once` says in its exit status what came of it, and on its output for people or programs.
func TestOnce(t *testing.T) {
	t.Parallel()
	m := newMachine(t)
	v := m.verifier("QUOTE_INTERVAL=0")
	list := m.measure()
	at := v.url
	once := func(want int, outcome Outcome, more ...string) Verdict {
		t.Helper()
		cmd := m.program(append([]string{"--push", "--once", "--json", "-v", at}, more...)...)
		var out, errs bytes.Buffer
		cmd.Stdout, cmd.Stderr = &out, &errs
		_ = cmd.Run()
		var verdict Verdict
		if err := json.Unmarshal(out.Bytes(), &verdict); err != nil {
			t.Errorf("output %q: %v", out.String(), err)
		}
		if got := cmd.ProcessState.ExitCode(); got != want || verdict.Outcome != outcome || verdict.AgentID != m.cfg.UUID {
			t.Errorf("exit status %d, want %d; %+v\n%s", got, want, verdict, errs.String())
		}
		return verdict
	}
	if v := once(4, OutcomeNotEnrolled); !strings.Contains(v.Detail, "--push-model") {
		t.Errorf("says %q, and not what to do", v.Detail)
	}
	v.enrol(m.cfg.UUID, m.enrolment())
	once(0, OutcomePass)
	if _, err := os.Stat(filepath.Join(m.cfg.KeylimeDir, "secure")); err == nil {
		t.Error("a single attestation made the secure directory")
	}
	at = "https://127.0.0.1:1," + v.url
	once(0, OutcomePass)
	at = "https://127.0.0.1:1"
	once(5, OutcomeUnreachable, "--within", "2s")
	at = v.url
	if err := v.admin.Stop(t.Context(), "2.6", m.cfg.UUID); err != nil {
		t.Fatal(err)
	}
	once(6, OutcomeRefused)
	if err := v.admin.Reactivate(t.Context(), "2.6", m.cfg.UUID); err != nil {
		t.Fatal(err)
	}
	if err := list.Measure(t.Context(), "/usr/bin/evil", bytesOf(32, 2)); err != nil {
		t.Fatal(err)
	}
	if got := once(3, OutcomeFail); !strings.HasPrefix(got.EventID, "ima.validation.") {
		t.Errorf("failed with %q", got.EventID)
	}
	once(3, OutcomeFail) // a failure stays

	cmd := m.program("--push", "--once", "-v", v.url)
	out, _ := cmd.Output()
	if line := string(out); strings.Count(line, "\n") != 1 || !strings.HasPrefix(line, "fail: agent "+m.cfg.UUID+" at "+v.url) {
		t.Errorf("for people: %q", line)
	}
	if status := m.program("--once").Run(); status == nil || status.(*exec.ExitError).ExitCode() != 2 {
		t.Errorf("--once without --push: %v", status)
	}
}

// What a status means depends on the one before: a failure stays, and a verifier may judge late.
func TestVerdictIsOfThisAttestation(t *testing.T) {
	t.Parallel()
	c := &caller{verifiers: []*api.PushClient{api.NewPush("https://v", &http.Client{})}}
	state := func(status string, count int, quote int64) api.VerifierAgent {
		return api.VerifierAgent{AttestationStatus: status, AttestationCount: count, LastReceivedQuote: quote}
	}
	for _, s := range []struct {
		what        string
		before, now api.VerifierAgent
		want        Outcome
	}{
		{"first pass", state("PENDING", 0, 0), state("PASS", 1, 7), OutcomePass},
		{"not judged yet", state("PASS", 4, 7), state("PASS", 4, 7), ""},
		{"another pass in the same second", state("PASS", 4, 7), state("PASS", 5, 7), OutcomePass},
		{"no decision", state("PASS", 4, 7), state("PASS", 4, 8), ""},
		{"first failure", state("PASS", 4, 7), state("FAIL", 4, 7), OutcomeFail},
		{"failed before, not judged yet", state("FAIL", 4, 7), state("FAIL", 4, 7), ""},
		{"failed before and again", state("FAIL", 4, 7), state("FAIL", 4, 9), OutcomeFail},
		{"passed, but a failure stays", state("FAIL", 4, 7), state("FAIL", 5, 9), OutcomeFail},
		{"failed before, and recovered", state("FAIL", 4, 7), state("PASS", 5, 9), OutcomePass},
		{"late, not judged yet", state("TIMEOUT", 4, 7), state("TIMEOUT", 4, 7), ""},
	} {
		if got := c.judged(s.before, s.now).Outcome; got != s.want {
			t.Errorf("%s: %q, want %q", s.what, got, s.want)
		}
	}
}

// An agent that calls in listens to nobody: not one of its sockets does.
func TestCallingAgentHasNoListener(t *testing.T) {
	t.Parallel()
	m := newMachine(t)
	v := m.verifier()
	m.measure()
	cmd := m.program("--push", "--verifier-url", v.url)
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Signal(syscall.SIGTERM)
		if err := cmd.Wait(); err != nil {
			t.Errorf("agent ended with %v\n%s", err, out.String())
		}
	})
	waitFor(t, "the agent to register", func() bool { return m.registrar.activations() > 0 })
	v.enrol(m.cfg.UUID, m.enrolment())
	v.passes(m.cfg.UUID, 1)
	listening := listeners(t)
	if len(listening) == 0 {
		t.Fatal("found no listening socket, not even the verifier's")
	}
	own := sockets(t, cmd.Process.Pid)
	if len(own) == 0 {
		t.Fatal("found no socket of the agent, not even that to its TPM")
	}
	for _, inode := range own {
		if listening[inode] {
			t.Errorf("the agent listens on a socket (inode %s)", inode)
		}
	}
}

// listeners are the inodes of this machine's listening TCP sockets (proc_net_tcp: state 0A).
func listeners(t *testing.T) map[string]bool {
	t.Helper()
	found := map[string]bool{}
	for _, file := range []string{"/proc/net/tcp", "/proc/net/tcp6"} {
		text, err := os.ReadFile(file)
		if err != nil {
			continue // a kernel without that family
		}
		for line := range strings.Lines(string(text)) {
			if fields := strings.Fields(line); len(fields) > 9 && fields[3] == "0A" {
				found[fields[9]] = true
			}
		}
	}
	return found
}

var socketLink = regexp.MustCompile(`^socket:\[(\d+)\]$`)

// sockets are the inodes of a process's sockets.
func sockets(t *testing.T, pid int) []string {
	t.Helper()
	dir := fmt.Sprintf("/proc/%d/fd", pid)
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var inodes []string
	for _, e := range entries {
		link, _ := os.Readlink(filepath.Join(dir, e.Name()))
		if match := socketLink.FindStringSubmatch(link); match != nil {
			inodes = append(inodes, match[1])
		}
	}
	return inodes
}

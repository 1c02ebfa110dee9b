// Package differential holds that verdicts are those of upstream's Python code: the same generated evidence and policies
// are given to both. Where docs/compatibility.md lists a deviation, the test names its row.
//
// It needs KEYLIME_PEER_VENV, a Python environment with upstream's code, and tpm2_eventlog, which that code runs; it is
// skipped without, unless KEYLIME_REQUIRE_TOOLS is set.
package differential

import (
	"bufio"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// peer is a process of upstream's code that answers questions.
type peer struct {
	questions chan []byte
	answers   *bufio.Reader
	errors    *strings.Builder
}

func newPeer(t *testing.T) *peer {
	t.Helper()
	venv := os.Getenv("KEYLIME_PEER_VENV")
	_, err := exec.LookPath("tpm2_eventlog")
	switch missing := venv == "" || err != nil; {
	case missing && os.Getenv("KEYLIME_REQUIRE_TOOLS") != "":
		t.Fatalf("KEYLIME_PEER_VENV is %q, tpm2_eventlog: %v; `make setup-test` provides both", venv, err)
	case missing:
		t.Skip("KEYLIME_PEER_VENV names no environment with upstream's code, or tpm2_eventlog is missing (`make setup-test`)")
	}
	dir := t.TempDir()
	cmd := exec.Command(filepath.Join(venv, "bin", "python"), filepath.Join("testdata", "peer.py"))
	cmd.Env = append(os.Environ(),
		"KEYLIME_DIR="+dir,
		"KEYLIME_VERIFIER_CONFIG="+write(t, dir, "verifier.conf", verifierConfig),
		"KEYLIME_LOGGING_CONFIG="+write(t, dir, "logging.conf", loggingConfig),
	)
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	p := &peer{questions: make(chan []byte, 1<<16), answers: bufio.NewReaderSize(out, 1<<20), errors: &strings.Builder{}}
	cmd.Stderr = p.errors
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	written := make(chan error, 1)
	go func() {
		var err error
		for q := range p.questions {
			if err == nil {
				_, err = in.Write(q)
			}
		}
		written <- err
		in.Close()
	}()
	t.Cleanup(func() {
		close(p.questions)
		if err := <-written; err != nil {
			t.Errorf("questions to the peer: %v", err)
		}
		if err := cmd.Wait(); err != nil {
			t.Errorf("peer: %v\n%s", err, p.errors)
		}
	})
	return p
}

// Upstream's ignore_tomtou_errors does the opposite of what its name says; "false" accepts violations.
const (
	verifierConfig = `[verifier]
version = 2.6
ignore_tomtou_errors = False
measured_boot_imports = []
measured_boot_policy_name = example
measured_boot_evaluate = always
`
	loggingConfig = `[logging]
version = 2.6
[loggers]
keys = root
[handlers]
keys = none
[formatters]
keys = none
[formatter_none]
format = %(message)s
[logger_root]
level = CRITICAL
handlers = none
[handler_none]
class = NullHandler
args = ()
level = CRITICAL
formatter = none
`
)

func write(t *testing.T, dir, name, text string) string {
	t.Helper()
	path := filepath.Join(dir, name)
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// ask sends a question. Answers come in the order of the questions.
func (p *peer) ask(t *testing.T, question any) {
	t.Helper()
	text, err := json.Marshal(question)
	if err != nil {
		t.Fatal(err)
	}
	p.questions <- append(text, '\n')
}

// answer reads the next answer.
func (p *peer) answer(t *testing.T, into any) {
	t.Helper()
	line, err := p.answers.ReadBytes('\n')
	if err != nil {
		t.Fatalf("the peer gave no answer: %v", err)
	}
	if err := json.Unmarshal(line, into); err != nil {
		t.Fatalf("the peer answered %q: %v", line, err)
	}
}

package agent

import (
	"bytes"
	"context"
	"fmt"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/urfave/cli/v2"
)

// beTheAgent makes this test binary `keylime agent`, configured by the environment.
const beTheAgent = "KEYLIME_TEST_BE_THE_AGENT"

// Started by root, the agent mounts its secrets' directory and goes on as another user; its programs run as that user
// too, and what they leave there outlives the agent.
func TestAgentGoesOnUnprivileged(t *testing.T) {
	if os.Getenv(beTheAgent) != "" {
		ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
		defer stop()
		err := (&cli.App{Commands: []*cli.Command{Command()}}).RunContext(ctx, []string{"keylime", "agent"})
		fmt.Println("CHILD ended:", err)
		return
	}
	needRoot(t)
	t.Parallel()
	dir, err := os.MkdirTemp("", "keylime-agent") // t.TempDir is closed to other users
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = syscall.Unmount(filepath.Join(dir, "secure"), 0)
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	m := newMachineIn(t, dir)
	ca := filepath.Join(dir, "cacert.crt") // which the agent reads after it gave up root
	writeFile(t, ca, read(t, filepath.Join(m.caDir, "cacert.crt")), 0o644)
	writeList(t, m.cfg.IMAMLPath, 3)
	const uid = 12345
	err = filepath.WalkDir(dir, func(name string, _ fs.DirEntry, err error) error {
		if err != nil || name == m.cfg.IMAMLPath { // which is opened by root
			return err
		}
		return os.Chown(name, uid, uid)
	})
	if err != nil {
		t.Fatal(err)
	}

	address := freeAddress(t)
	_, port, _ := net.SplitHostPort(address)
	var out bytes.Buffer
	cmd := exec.Command(os.Args[0], "-test.run=^"+t.Name()+"$")
	cmd.Stdout, cmd.Stderr = &out, &out
	cmd.Env = append(os.Environ(), beTheAgent+"=1", "TCTI="+m.tpm.TCTI(), "RUST_LOG=keylime_agent=debug", "KEYLIME_DIR="+dir,
		"KEYLIME_AGENT_RUN_AS="+strconv.Itoa(uid)+":"+strconv.Itoa(uid), "KEYLIME_AGENT_IMA_ML_PATH="+m.cfg.IMAMLPath,
		"KEYLIME_AGENT_TRUSTED_CLIENT_CA="+ca, "KEYLIME_AGENT_TPM_ENCRYPTION_ALG=ecc", "KEYLIME_AGENT_TPM_SIGNING_ALG=ecdsa",
		"KEYLIME_AGENT_PORT="+port, "KEYLIME_AGENT_CONTACT_PORT="+port, "KEYLIME_AGENT_REGISTRAR_PORT="+strconv.Itoa(m.cfg.RegistrarPort))
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	waitFor(t, "the agent to listen", func() bool {
		select {
		case err := <-ended:
			t.Fatalf("agent ended: %v\n%s", err, out.String())
		default:
		}
		conn, err := net.Dial("tcp", address)
		if err == nil {
			conn.Close()
		}
		return err == nil
	})
	r := &running{machine: m}
	r.connect(address)
	results, err := r.admin.IdentityQuote(t.Context(), "2.6", "abc")
	if err != nil {
		t.Fatal(err)
	}
	r.verify(results, "abc", 0, *results.PubKey)
	if status, text := r.get("/v2.6/quotes/integrity?nonce=abc&mask=0x400&partial=1"); status != 200 || !strings.Contains(text, "file00002.so") {
		t.Errorf("the list opened by root is not served: %d %.200s", status, text)
	}
	r.deliver(makeZip(t, zipEntry{"autorun.sh", 0o755, "#!/bin/sh\nid -u > whoami\nmv whoami done\n"}))
	done := filepath.Join(dir, "secure/unzipped/done")
	waitFor(t, "the payload's script", func() bool { _, err := os.Stat(done); return err == nil })

	r.client.CloseIdleConnections()
	if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if err := <-ended; err != nil || !strings.Contains(out.String(), "CHILD ended: <nil>") || !strings.Contains(out.String(), "root privileges dropped") {
		t.Errorf("%v\n%s", err, out.String())
	}
	if got := read(t, done); got != strconv.Itoa(uid)+"\n" {
		t.Errorf("the script ran as %q", got)
	}
}

// freeAddress is an address that nobody listened on a moment ago.
func freeAddress(t *testing.T) string {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	return listener.Addr().String()
}

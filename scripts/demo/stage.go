package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"keylime/internal/swtpm"
)

const agentID = "8d5c2f10-4a6b-4c1e-9b73-0f2a9c3d7e51"

// stage is one installation on loopback: a machine with a TPM, the servers, and an operator.
type stage struct {
	*screen
	dir, binary string
	tpm         *swtpm.Server
	list        *swtpm.List
	hook        *webhook
	ports       struct{ verifier, registrar, registrarTLS, agent, webhook int }
	running     []*process
}

type process struct {
	name   string
	cmd    *exec.Cmd
	exited chan struct{}
}

func newStage(ctx context.Context, dir, binary string, out *screen) (*stage, error) {
	s := &stage{screen: out, dir: dir, binary: binary}
	for _, d := range []string{"tpm", "server", "agent", "actions", "payload", "log"} {
		if err := os.MkdirAll(filepath.Join(dir, d), 0o700); err != nil {
			return nil, err
		}
	}
	for _, p := range []*int{&s.ports.verifier, &s.ports.registrar, &s.ports.registrarTLS, &s.ports.agent, &s.ports.webhook} {
		port, err := freePort()
		if err != nil {
			return nil, err
		}
		*p = port
	}
	tpm, err := swtpm.Start(ctx, filepath.Join(dir, "tpm"))
	if err != nil {
		return nil, fmt.Errorf("start the software TPM: %w", err)
	}
	s.tpm = tpm
	return s, s.writeConfig()
}

func (s *stage) path(elem ...string) string {
	return filepath.Join(append([]string{s.dir}, elem...)...)
}

func (s *stage) writeConfig() error {
	text := strings.NewReplacer(
		"@DIR@", s.dir, "@ID@", agentID, "@STORE@", s.tpm.CertStore(),
		"@VERIFIER@", fmt.Sprint(s.ports.verifier), "@REGISTRAR@", fmt.Sprint(s.ports.registrar),
		"@REGISTRARTLS@", fmt.Sprint(s.ports.registrarTLS), "@AGENT@", fmt.Sprint(s.ports.agent),
		"@WEBHOOK@", fmt.Sprint(s.ports.webhook),
	).Replace(config)
	return os.WriteFile(s.path("keylime.toml"), []byte(text), 0o600)
}

// config is what an operator would write: everything that is not said keeps its default.
const config = `[verifier]
port = @VERIFIER@
quote_interval = 1

[verifier.revocations]
enabled_revocation_notifications = ["agent", "webhook"]
webhook_url = "https://127.0.0.1:@WEBHOOK@/revoked"

[registrar]
port = @REGISTRAR@
tls_port = @REGISTRARTLS@

[tenant]
verifier_port = @VERIFIER@
registrar_port = @REGISTRARTLS@
tpm_cert_store = "@STORE@"

[agent]
uuid = "@ID@"
port = @AGENT@
contact_port = @AGENT@
registrar_port = @REGISTRAR@
keylime_dir = "@DIR@/agent"
ima_ml_path = "@DIR@/ima.log"
measuredboot_ml_path = ""
verifier_url = "https://127.0.0.1:@VERIFIER@"
revocation_actions_dir = "@DIR@/actions"
run_as = ""
`

func (s *stage) env() []string {
	return append(os.Environ(),
		"KEYLIME_CONFIG="+s.path("keylime.toml"), "KEYLIME_DIR="+s.path("server"), "TCTI="+s.tpm.TCTI())
}

// start runs a daemon and waits until it listens.
func (s *stage) start(ctx context.Context, name string, port int, args ...string) error {
	s.command(append([]string{"keylime"}, args...)...)
	logFile, err := os.Create(s.path("log", name+".log"))
	if err != nil {
		return err
	}
	defer logFile.Close()
	cmd := exec.Command(s.binary, args...)
	cmd.Env, cmd.Stdout, cmd.Stderr = s.env(), logFile, logFile
	if name == "agent" {
		cmd.Env = append(cmd.Env, "KEYLIME_DIR="+s.path("agent"))
	}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGTERM}
	if name == "agent" {
		mayMount(cmd.SysProcAttr)
	}
	if err := cmd.Start(); err != nil {
		return err
	}
	p := &process{name: name, cmd: cmd, exited: make(chan struct{})}
	go func() { _ = cmd.Wait(); close(p.exited) }()
	s.running = append(s.running, p)
	return s.until(ctx, 20*time.Second, name+" listens", func() error {
		select {
		case <-p.exited:
			return fatal{fmt.Errorf("%s ended: %v", name, cmd.ProcessState)}
		default:
		}
		conn, err := net.DialTimeout("tcp", fmt.Sprintf("127.0.0.1:%d", port), time.Second)
		if err == nil {
			conn.Close()
		}
		return err
	})
}

// mayMount lets a process of a user other than root mount the tmpfs that the agent keeps secrets in: it becomes root of
// a user namespace of its own (user_namespaces(7)).
func mayMount(attr *syscall.SysProcAttr) {
	if os.Geteuid() == 0 {
		return
	}
	attr.Cloneflags = syscall.CLONE_NEWUSER | syscall.CLONE_NEWNS
	attr.UidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Geteuid(), Size: 1}}
	attr.GidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getegid(), Size: 1}}
}

// keylime runs one command of the operator and shows it with what it printed.
func (s *stage) keylime(ctx context.Context, args ...string) (string, error) {
	s.command(append([]string{"keylime"}, args...)...)
	out, err := s.quiet(ctx, args...)
	s.quote(out)
	return out, err
}

// changed shows how the corrected policy differs; the command's exit status 1 says that it does.
func (s *stage) changed(ctx context.Context, before, after string) error {
	args := []string{"policy", "diff", before, after}
	s.command(append([]string{"keylime"}, args...)...)
	out, err := s.quiet(ctx, args...)
	s.quote(out)
	var exit *exec.ExitError
	switch {
	case err == nil:
		return fmt.Errorf("%s does not differ from %s", after, before)
	case !errors.As(err, &exit) || exit.ExitCode() != 1:
		return err
	case !strings.Contains(out, intruder.path):
		return fmt.Errorf("the difference does not name %s", intruder.path)
	}
	return nil
}

// onMachine runs one command on the measured machine and shows it with what it printed.
func (s *stage) onMachine(ctx context.Context, args ...string) (string, error) {
	s.command(append([]string{"keylime"}, args...)...)
	out, err := s.run(ctx, append(s.env(), "KEYLIME_DIR="+s.path("agent")), args...)
	s.quote(out)
	return out, err
}

// quiet runs one command of the operator without showing it.
func (s *stage) quiet(ctx context.Context, args ...string) (string, error) {
	return s.run(ctx, s.env(), args...)
}

func (s *stage) run(ctx context.Context, env []string, args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, 40*time.Second)
	defer cancel()
	var out, errs bytes.Buffer
	cmd := exec.CommandContext(ctx, s.binary, args...)
	cmd.Dir = s.dir
	cmd.Env, cmd.Stdout, cmd.Stderr = env, &out, &errs
	if err := cmd.Run(); err != nil {
		return out.String(), fmt.Errorf("keylime %s: %w: %s", strings.Join(args, " "), err, strings.TrimSpace(errs.String()))
	}
	return out.String(), nil
}

// fatal is an error that waiting longer cannot cure.
type fatal struct{ error }

// until polls check, and returns its last error when the time is over.
func (s *stage) until(ctx context.Context, limit time.Duration, what string, check func() error) error {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	for {
		err := check()
		if err == nil || errors.As(err, &fatal{}) {
			return err
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%s: not within %v: %w", what, limit, err)
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// close ends what was started, agent first, as an operator would.
func (s *stage) close() {
	for i := len(s.running) - 1; i >= 0; i-- {
		s.running[i].end()
	}
	if s.hook != nil {
		s.hook.close()
	}
	if s.list != nil {
		_ = s.list.Close()
	}
	if s.tpm != nil {
		_ = s.tpm.Stop()
	}
}

// end ends a daemon in an orderly way, or else at once.
func (p *process) end() {
	_ = syscall.Kill(-p.cmd.Process.Pid, syscall.SIGTERM)
	select {
	case <-p.exited:
	case <-time.After(5 * time.Second):
		_ = syscall.Kill(-p.cmd.Process.Pid, syscall.SIGKILL)
		<-p.exited
	}
}

// stop ends the daemon of that name.
func (s *stage) stop(name string) {
	for _, p := range s.running {
		if p.name == name {
			p.end()
		}
	}
}

// showLogs prints the end of each daemon's log after a failure.
func (s *stage) showLogs() {
	for _, p := range s.running {
		data, _ := os.ReadFile(s.path("log", p.name+".log"))
		if len(data) > 4000 {
			data = data[len(data)-4000:]
		}
		fmt.Fprintf(os.Stderr, "--- log of the %s\n%s", p.name, data)
	}
}

func freePort() (int, error) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return 0, err
	}
	defer ln.Close()
	return ln.Addr().(*net.TCPAddr).Port, nil
}

package tenant

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
	"github.com/rs/zerolog"
	"github.com/urfave/cli/v2"

	"keylime/internal/api"
	"keylime/internal/config"
	"keylime/internal/pki"
	"keylime/internal/python"
	"keylime/internal/web"
	"keylime/registrar"
	"keylime/store/bolt"
	"keylime/verifier"
)

// authorityDir is where authority made its CA; "" when no test asked for one.
var authorityDir string

// tidy removes what tests shared when they are done.
type tidy struct{ *testing.M }

func (t tidy) Run() int {
	code := t.M.Run()
	if authorityDir != "" {
		os.RemoveAll(authorityDir)
	}
	return code
}

// TestMain lets scripts run the command lines as programs of their own: this test executable, called by their names.
func TestMain(m *testing.M) {
	testscript.Main(tidy{m}, map[string]func(){"keylime": program, "keylime_tenant": program})
}

// program is the executable as far as the tenant is concerned.
func program() {
	args := os.Args
	if filepath.Base(args[0]) == "keylime_tenant" {
		args = append([]string{"keylime", "tenant"}, args[1:]...)
	}
	app := &cli.App{
		Name: "keylime", Commands: []*cli.Command{Command()}, ExitErrHandler: func(*cli.Context, error) {},
		Flags: []cli.Flag{&cli.StringFlag{Name: "config"}},
	}
	err := app.Run(args)
	if err == nil {
		return
	}
	fmt.Fprintln(os.Stderr, "keylime:", err)
	var coded interface{ ExitCode() int }
	if errors.As(err, &coded) {
		os.Exit(coded.ExitCode())
	}
	os.Exit(1)
}

// world is a registrar and a verifier, over one store and on real ports, and an agent that is registered.
type world struct {
	*actor
	registrarPort, verifierPort int
}

func newWorld(t testing.TB) *world {
	t.Helper()
	w := &world{actor: newActor(t, "ecc256")}
	src := config.Sources{Root: t.TempDir(), Environ: []string{"KEYLIME_DIR=" + w.dir}}
	db, err := bolt.Open(filepath.Join(t.TempDir(), "keylime.db"), bolt.Options{Log: zerolog.Nop()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { db.Close() })
	plain := w.startRegistrar(t, src, db)
	w.startVerifier(t, src, db)
	w.register(t, api.NewRegistrar("http://"+plain, http.DefaultClient), nil)
	return w
}

func (w *world) startRegistrar(t testing.TB, src config.Sources, db *bolt.DB) (plain string) {
	t.Helper()
	cfg, _, err := config.LoadRegistrar(src)
	if err != nil {
		t.Fatal(err)
	}
	reg, err := registrar.New(cfg, db, zerolog.Nop())
	if err != nil {
		t.Fatal(err)
	}
	open, secure := listen(t), listen(t)
	w.registrarPort = secure.Addr().(*net.TCPAddr).Port
	inBackground(t, func(ctx context.Context) error { return reg.Serve(ctx, open, secure, serverTLS(t, w.dir)) })
	return open.Addr().String()
}

func (w *world) startVerifier(t testing.TB, src config.Sources, db *bolt.DB) {
	t.Helper()
	cfg, _, err := config.LoadVerifier(src)
	if err != nil {
		t.Fatal(err)
	}
	cfg.QuoteInterval, cfg.RetryInterval, cfg.MaxRetries = 30*time.Millisecond, 20*time.Millisecond, 2
	client, err := pki.ClientTLS(cfg.TLS.ClientFiles())
	if err != nil {
		t.Fatal(err)
	}
	secure := listen(t)
	w.verifierPort = secure.Addr().(*net.TCPAddr).Port
	ver, err := verifier.New(t.Context(), cfg, db, verifier.Options{
		Client: client, Listen: netip.MustParseAddrPort(secure.Addr().String()), Log: zerolog.Nop(),
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(ver.Close)
	inBackground(t, func(ctx context.Context) error { ver.Attest(ctx); return nil })
	inBackground(t, func(ctx context.Context) error {
		return web.Serve(ctx, secure, ver.Handler(), serverTLS(t, w.dir), web.Limits{}, zerolog.Nop())
	})
}

func listen(t testing.TB) net.Listener {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// inBackground runs f until the test ends.
func inBackground(t testing.TB, f func(context.Context) error) {
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- f(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
}

// TestScripts runs the command lines of testdata/script, each in a world of its own.
func TestScripts(t *testing.T) {
	t.Parallel()
	testscript.Run(t, testscript.Params{
		Dir: "testdata/script",
		Setup: func(env *testscript.Env) error {
			w := newWorld(env.T().(testing.TB))
			env.Values["world"] = w
			env.Vars = append(env.Vars, environment(w.dir, w.registrarPort, w.verifierPort, nil)...)
			env.Vars = append(env.Vars, "AGENT="+w.id, fmt.Sprint("AGENT_PORT=", w.agent.port()), fmt.Sprint("VERIFIER_PORT=", w.verifierPort),
				fmt.Sprint("REGISTRAR_PORT=", w.registrarPort), "KEYLIME_CONFIG="+filepath.Join(env.WorkDir, "keylime.toml"))
			return os.WriteFile(filepath.Join(env.WorkDir, "keylime.toml"), nil, 0o600)
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"exits": exits, "until": until, "measure": measure, "policy": policyCommand,
		},
	})
}

// exits CODE PROGRAM ARGS…: the program must exit with that code.
func exits(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: exits CODE PROGRAM ARGS...")
	}
	err := ts.Exec(args[1], args[2:]...)
	code := "0"
	var status interface{ ExitCode() int }
	if errors.As(err, &status) {
		code = fmt.Sprint(status.ExitCode())
	} else if err != nil {
		ts.Fatalf("%v", err)
	}
	if code != args[0] {
		ts.Fatalf("exit code %s, want %s", code, args[0])
	}
}

// until TEXT PROGRAM ARGS…: runs the program again and again until its output has the text.
func until(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: until TEXT PROGRAM ARGS...")
	}
	for deadline := time.Now().Add(30 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		ts.Exec(args[1], args[2:]...)
		if strings.Contains(ts.ReadFile("stdout"), args[0]) {
			return
		}
		if time.Now().After(deadline) {
			ts.Fatalf("no %q in the output after 30 s", args[0])
		}
	}
}

// measure PATH HEX: the agent's kernel measures a file.
func measure(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 2 {
		ts.Fatalf("usage: measure PATH HEX")
	}
	digest, err := hex.DecodeString(args[1])
	ts.Check(err)
	_, err = ts.Value("world").(*world).list.Add(args[0], digest)
	ts.Check(err)
}

// policy FILE [PATH HEX]…: writes a runtime policy that allows what the agent has measured so far, and these files.
func policyCommand(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args)%2 != 1 {
		ts.Fatalf("usage: policy FILE [PATH HEX]...")
	}
	lines, _ := ts.Value("world").(*world).list.From(0)
	digests := map[string][]string{}
	for _, line := range strings.Split(strings.TrimSpace(string(lines)), "\n") {
		fields := strings.Fields(line)
		_, digest, _ := strings.Cut(fields[3], ":")
		digests[fields[4]] = append(digests[fields[4]], digest)
	}
	for i := 1; i < len(args); i += 2 {
		digests[args[i]] = []string{args[i+1]}
	}
	text := strings.Replace(goodPolicy, `{"/bin/sh":["e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"]}`, python.JSON.Of(digests), 1)
	ts.Check(os.WriteFile(ts.MkAbs(args[0]), []byte(text), 0o600))
}

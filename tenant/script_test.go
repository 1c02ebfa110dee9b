package tenant

import (
	"context"
	"crypto/subtle"
	"crypto/tls"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
	"github.com/rs/zerolog"
	"github.com/urfave/cli/v2"

	"keylime/internal/api"
	"keylime/internal/config"
	"keylime/internal/fleet"
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
	caller                      *fleet.PushAgent // of the same TPM; nil until it calls
}

// newWorld makes a world whose verifier asks agents once in an interval.
func newWorld(t testing.TB, interval time.Duration) *world {
	t.Helper()
	w := &world{actor: newActor(t, "ecc256")}
	src := config.Sources{Root: t.TempDir(), Environ: []string{"KEYLIME_DIR=" + w.dir}}
	db, err := bolt.Open(filepath.Join(t.TempDir(), "keylime.db"), bolt.Options{Log: zerolog.Nop()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { db.Close() })
	plain := w.startRegistrar(t, src, db)
	w.startVerifier(t, src, db, interval)
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

func (w *world) startVerifier(t testing.TB, src config.Sources, db *bolt.DB, interval time.Duration) {
	t.Helper()
	cfg, _, err := config.LoadVerifier(src)
	if err != nil {
		t.Fatal(err)
	}
	cfg.QuoteInterval, cfg.RetryInterval, cfg.MaxRetries = interval, 20*time.Millisecond, 2
	client, err := pki.ClientTLS(cfg.TLS.ClientFiles())
	if err != nil {
		t.Fatal(err)
	}
	server, err := pki.ServerTLS(cfg.TLS.ServerFiles()) // agents that call in have no certificate
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
		return web.Serve(ctx, secure, ver.Handler(), server, web.Limits{}, zerolog.Nop())
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
	runScripts(t, "testdata/script", 30*time.Millisecond)
}

// TestCallingAgents is TestScripts for agents that call in, when a script says so. They are not missed within five
// intervals.
func TestCallingAgents(t *testing.T) {
	t.Parallel()
	runScripts(t, "testdata/calls", 2*time.Second)
}

func runScripts(t *testing.T, dir string, interval time.Duration) {
	t.Helper()
	testscript.Run(t, testscript.Params{
		Dir: dir,
		Setup: func(env *testscript.Env) error {
			w := newWorld(env.T().(testing.TB), interval)
			env.Values["world"], env.Values["test"] = w, env.T()
			env.Vars = append(env.Vars, environment(w.dir, w.registrarPort, w.verifierPort, nil)...)
			env.Vars = append(env.Vars, "AGENT="+w.id, fmt.Sprint("AGENT_PORT=", w.agent.port()), fmt.Sprint("VERIFIER_PORT=", w.verifierPort),
				fmt.Sprint("REGISTRAR_PORT=", w.registrarPort), "KEYLIME_CONFIG="+filepath.Join(env.WorkDir, "keylime.toml"))
			return os.WriteFile(filepath.Join(env.WorkDir, "keylime.toml"), nil, 0o600)
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"exits": exits, "until": until, "measure": measure, "policy": policyCommand,
			"calls": calls, "fetches": fetches,
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

// calls N: the agent calls in and attests N times. When it does so first, its machine has just booted.
func calls(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 1 {
		ts.Fatalf("usage: calls N")
	}
	n, err := strconv.Atoi(args[0])
	ts.Check(err)
	w := ts.Value("world").(*world)
	if w.caller == nil {
		base := "https://127.0.0.1:" + strconv.Itoa(w.verifierPort)
		w.caller, err = fleet.NewPushAgent(w.id, w.soft, base, &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: w.clients}}})
		if err == nil {
			err = w.caller.Reboot(0, nil)
		}
		ts.Check(err)
		w.list = w.caller.List
	}
	for n > 0 {
		_, err := w.caller.Attest(context.Background())
		if fleet.StatusOf(err) == http.StatusTooManyRequests { // the interval is not over
			time.Sleep(50 * time.Millisecond)
			continue
		}
		ts.Check(err)
		n--
	}
}

// fetches FILE: the agent fetches its payload, opens it with its TPM, and finds what is in the file. With !, it is refused.
func fetches(ts *testscript.TestScript, neg bool, args []string) {
	if len(args) != 1 {
		ts.Fatalf("usage: fetches FILE")
	}
	w := ts.Value("world").(*world)
	p, err := w.caller.Payload(context.Background())
	if status := fleet.StatusOf(err); neg {
		if status != http.StatusForbidden && status != http.StatusUnauthorized {
			ts.Fatalf("fetched a payload, or failed otherwise: %v", err)
		}
		return
	}
	ts.Check(err)
	sealed, err := base64.StdEncoding.DecodeString(p.SealedU)
	ts.Check(err)
	u, err := w.soft.Activate(sealed)
	ts.Check(err)
	v, err := base64.StdEncoding.DecodeString(p.V)
	ts.Check(err)
	keys := shares{k: make([]byte, keySize)}
	subtle.XORBytes(keys.k, u, v)
	if p.Tag != keys.mac(w.id) {
		ts.Fatalf("the tag is not that of key and id")
	}
	if got := unseal(ts.Value("test").(testing.TB), delivery{keys: &keys, payload: p.Data}); string(got) != ts.ReadFile(args[0]) {
		ts.Fatalf("payload %q", got)
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

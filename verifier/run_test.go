package verifier

import (
	"bytes"
	"context"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/rs/zerolog"
	"github.com/urfave/cli/v2"

	"keylime/internal/api"
	"keylime/internal/pki"
	"keylime/store"
	"keylime/store/bolt"
)

// openBolt is the opener that the program uses, more or less.
func openBolt(path string, log zerolog.Logger) (store.Verifier, func() error, error) {
	db, err := bolt.Open(path, bolt.Options{Log: log})
	if err != nil {
		return nil, nil, err
	}
	return db, db.Close, nil
}

// keylime runs the verifier's command line in a directory of its own until ctx ends.
func keylime(ctx context.Context, dir string, args ...string) (output string, err error) {
	var out, errOut bytes.Buffer
	app := &cli.App{
		Name: "keylime", Writer: &out, ErrWriter: &errOut,
		Flags:          []cli.Flag{&cli.StringFlag{Name: "config"}},
		Commands:       []*cli.Command{Command(openBolt)},
		ExitErrHandler: func(*cli.Context, error) {},
	}
	file := filepath.Join(dir, "keylime.toml")
	if _, err := os.Stat(file); os.IsNotExist(err) {
		if err := os.WriteFile(file, []byte("[server]\nkeylime_dir = "+strconv.Quote(dir)+"\n"), 0o600); err != nil {
			return "", err
		}
	}
	err = app.RunContext(ctx, append([]string{"keylime", "--config", file}, args...))
	return out.String() + errOut.String(), err
}

func freePort(t *testing.T) int {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	return ln.Addr().(*net.TCPAddr).Port
}

// The verifier starts with nothing but a directory: it makes its CA, serves, and stops when told to.
func TestCommandRunsFromNothing(t *testing.T) {
	t.Parallel()
	dir, port := t.TempDir(), freePort(t)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	ended := make(chan error, 1)
	var out string
	go func() {
		var err error
		out, err = keylime(ctx, dir, "verifier", "--set", "port="+strconv.Itoa(port))
		ended <- err
	}()
	ca := filepath.Join(dir, "cv_ca")
	var client *http.Client
	eventually(t, func() bool {
		cfg, err := pki.ClientTLS(pki.ClientFiles{
			CertFile: filepath.Join(ca, "client-cert.crt"), KeyFile: filepath.Join(ca, "client-private.pem"),
			ServerCAs: []string{filepath.Join(ca, "cacert.crt")},
		})
		if err != nil {
			return false
		}
		client = &http.Client{Transport: &http.Transport{TLSClientConfig: cfg}}
		_, err = api.NewVerifier("https://127.0.0.1:"+strconv.Itoa(port), client).Version(ctx)
		return err == nil
	}, func() {
		cancel()
		t.Error("it does not serve: ", <-ended, out)
	})
	agents, err := api.NewVerifier("https://127.0.0.1:"+strconv.Itoa(port), client).Agents(ctx, "2.6", "")
	if err != nil || len(agents.UUIDs) != 0 {
		t.Errorf("agents %v, %v", agents, err)
	}
	client.CloseIdleConnections()
	cancel()
	select {
	case err := <-ended:
		if err != nil {
			t.Error(err)
		}
	case <-time.After(15 * time.Second):
		t.Fatal("it does not stop")
	}
	for _, want := range []string{"Verifier is listening", "Verifier stopped"} {
		if !strings.Contains(out, want) {
			t.Errorf("the log lacks %q:\n%s", want, out)
		}
	}
}

// NT-97: a bad value is refused by the option's name, before anything is opened.
func TestBadOptionsAreRefused(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ set, want string }{
		{"quote_interval=soon", "quote_interval"},
		{"quote_intervall=2", "quote_intervall"},
		{"port=70000", "port"},
		{"measured_boot_policy_name=exemplary", "measured_boot_policy_name"},
		{"require_allow_list_signatures=perhaps", "require_allow_list_signatures"},
		{"severity_labels=[]", "severity_labels"},
		{`severity_policy=[{"event_id": "(", "severity_label": "emergency"}]`, "severity_policy"},
		{`severity_policy=[{"event_id": ".*", "severity_label": "loud"}]`, "severity_policy"},
		{"revocations.enabled_revocation_notifications=['pigeon']", "enabled_revocation_notifications"},
		{"revocations.webhook_url=ftp://x", "webhook_url"},
		{"nonsense", "OPTION=VALUE"},
	} {
		dir := t.TempDir()
		_, err := keylime(t.Context(), dir, "verifier", "--set", c.set, "config", "check")
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("--set %s: error %v, want one with %s", c.set, err, c.want)
		}
		if files, _ := os.ReadDir(dir); len(files) > 1 {
			t.Errorf("--set %s: left %v", c.set, files)
		}
	}
}

func TestConfigCheckAndShow(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	if out, err := keylime(t.Context(), dir, "verifier", "config", "check"); err != nil || !strings.Contains(out, "valid") {
		t.Errorf("check: %v, %s", err, out)
	}
	out, err := keylime(t.Context(), dir, "verifier", "--set", "quote_interval=7", "config", "show")
	if err != nil || !strings.Contains(out, "quote_interval = 7") || !strings.Contains(out, "uuid") {
		t.Errorf("show: %v, %s", err, out)
	}
}

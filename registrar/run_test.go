package registrar

import (
	"context"
	"encoding/json"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/rs/zerolog"

	"keylime/internal/api"
	"keylime/internal/config"
	"keylime/store"
	"keylime/store/bolt"
)

// A registrar without any configuration makes what it needs, says where it listens, and stops when told to.
func TestRunFromNothing(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	open := func(path string, log zerolog.Logger) (store.Registrar, func() error, error) {
		db, err := bolt.Open(path, bolt.Options{Log: log})
		if err != nil {
			return nil, nil, err
		}
		return db, db.Close, nil
	}
	run, _, err := load(sources(dir), open)
	if err != nil {
		t.Fatal(err)
	}
	ready := &readiness{at: make(chan [2]string, 1)}
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- run(ctx, zerolog.New(ready)) }()
	select {
	case at := <-ready.at:
		v, err := api.NewRegistrar("http://"+at[0], httpClient(t, nil)).Version(t.Context())
		if err != nil || v.Current != "2.6" {
			t.Errorf("version %+v, %v", v, err)
		}
		if err := issueAdministrator(dir); err != nil {
			t.Fatal(err)
		}
		if _, err := api.NewRegistrar("https://"+at[1], httpClient(t, administrator(t, dir))).Agents(t.Context(), "2.6"); err != nil {
			t.Errorf("list: %v", err)
		}
	case err := <-ended:
		t.Fatalf("ended: %v", err)
	case <-time.After(30 * time.Second):
		t.Fatal("not listening after 30 s")
	}
	stop()
	if err := <-ended; err != nil {
		t.Errorf("stopped with %v", err)
	}
}

// readiness is a log that tells where the registrar listens.
type readiness struct {
	mu sync.Mutex
	at chan [2]string
}

func (r *readiness) Write(line []byte) (int, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	var l struct{ Message, HTTP, HTTPS string }
	if json.Unmarshal(line, &l) == nil && l.Message == "Registrar is listening" {
		r.at <- [2]string{l.HTTP, l.HTTPS}
	}
	return len(line), nil
}

func TestPortInUseIsNamed(t *testing.T) {
	t.Parallel()
	dir, err := workplace()
	if err != nil {
		t.Fatal(err)
	}
	taken := listen(t)
	defer taken.Close()
	cfg := configuration(t, dir)
	ca, _, err := config.LoadCA(sources(dir))
	if err != nil {
		t.Fatal(err)
	}
	cfg.TLSPort = taken.Addr().(*net.TCPAddr).Port
	err = Run(t.Context(), cfg, ca, nil, zerolog.Nop())
	if err == nil || !strings.Contains(err.Error(), "option tls_port") || !strings.Contains(err.Error(), taken.Addr().String()) {
		t.Errorf("Run = %v", err)
	}
}

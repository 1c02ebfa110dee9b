package agent

import (
	"context"
	"crypto/rand"
	"crypto/rsa"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"keylime/internal/pki"
	"keylime/internal/swtpm"
)

// TestMain removes what the tests share, and holds that they leave no goroutine behind. Told so by asProgram, the
// process is the agent's command instead.
func TestMain(m *testing.M) {
	if os.Getenv(asProgram) != "" {
		os.Exit(agentProgram(os.Args))
	}
	cleanup := goleak.Cleanup(func(code int) {
		if sharedDir != "" {
			os.RemoveAll(sharedDir)
		}
		os.Exit(code)
	})
	// The other implementation of ZeroMQ never ends this one.
	theirs := goleak.IgnoreAnyFunction("github.com/go-zeromq/zmq4.(*pubMWriter).run")
	goleak.VerifyTestMain(m, cleanup, theirs)
}

// sharedParts take long to make, and no test changes them: an administrators' CA, a key for payloads, and a TPM that has
// been manufactured, of which each machine has a copy.
type sharedParts struct {
	ca         *pki.CA
	caDir      string
	payloadKey string
	tpmDir     string
}

var (
	sharedDir string // "" until a test needs it
	shared    = sync.OnceValues(makeShared)
)

func made(t *testing.T) *sharedParts {
	t.Helper()
	parts, err := shared()
	if err != nil {
		t.Fatal(err)
	}
	return parts
}

func makeShared() (*sharedParts, error) {
	var err error
	if sharedDir, err = os.MkdirTemp("", "keylime-agent-test"); err != nil {
		return nil, err
	}
	parts := &sharedParts{caDir: filepath.Join(sharedDir, "cv_ca"), tpmDir: filepath.Join(sharedDir, "tpm")}
	parts.ca, err = pki.EnsureCA(parts.caDir, pki.CAOptions{
		Password: "test", CommonName: "CA", Bits: 2048, Lifetime: 24 * time.Hour, LeafLifetime: time.Hour,
	})
	if err != nil {
		return nil, err
	}
	for _, leaf := range []pki.Leaf{
		{Name: "client", Kind: pki.Client},
		{Name: "server", Kind: pki.Server, Hosts: []string{"127.0.0.1", "localhost"}},
	} {
		if err := parts.ca.EnsureLeaf(leaf); err != nil {
			return nil, err
		}
	}
	key, err := rsa.GenerateKey(rand.Reader, transportKeyBits)
	if err != nil {
		return nil, err
	}
	text, err := pki.EncodePrivateKey(key, "")
	if err != nil {
		return nil, err
	}
	parts.payloadKey = string(text)
	server, err := swtpm.StartWith(context.Background(), swtpm.Options{Dir: parts.tpmDir, ECC: true})
	if err != nil {
		return nil, err
	}
	return parts, server.Stop()
}

// startTPM starts a copy of the shared TPM.
func startTPM(t *testing.T) *swtpm.Server {
	t.Helper()
	swtpm.Require(t)
	dir := t.TempDir()
	if err := os.CopyFS(dir, os.DirFS(made(t).tpmDir)); err != nil {
		t.Fatal(err)
	}
	server, err := swtpm.Start(context.WithoutCancel(t.Context()), dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := server.Stop(); err != nil {
			t.Error(err)
		}
	})
	return server
}

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

// TestMain removes what the tests share, and holds that they leave no goroutine behind.
func TestMain(m *testing.M) {
	dir, err := os.MkdirTemp("", "keylime-agent-test")
	if err != nil {
		panic(err)
	}
	shared = sync.OnceValues(func() (*sharedParts, error) { return makeShared(dir) })
	goleak.VerifyTestMain(m, goleak.Cleanup(func(code int) {
		os.RemoveAll(dir)
		os.Exit(code)
	}), goleak.IgnoreAnyFunction("github.com/go-zeromq/zmq4.(*pubMWriter).run")) // the other implementation's, never ended
}

// sharedParts take long to make, and no test changes them: an administrators' CA, a key for payloads, and a TPM that has
// been manufactured, of which each machine has a copy.
type sharedParts struct {
	ca         *pki.CA
	caDir      string
	payloadKey string
	tpmDir     string
}

var shared func() (*sharedParts, error)

func made(t *testing.T) *sharedParts {
	t.Helper()
	parts, err := shared()
	if err != nil {
		t.Fatal(err)
	}
	return parts
}

func makeShared(dir string) (*sharedParts, error) {
	parts := &sharedParts{caDir: filepath.Join(dir, "cv_ca"), tpmDir: filepath.Join(dir, "tpm")}
	var err error
	parts.ca, err = pki.EnsureCA(parts.caDir, pki.CAOptions{
		Password: "test", CommonName: "CA", Bits: 2048, Lifetime: 24 * time.Hour, LeafLifetime: time.Hour,
	})
	if err != nil {
		return nil, err
	}
	if err := parts.ca.EnsureLeaf(pki.Leaf{Name: "client", Kind: pki.Client}); err != nil {
		return nil, err
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

package agent

import (
	"bufio"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"keylime/internal/api"
	"keylime/internal/pki"
	"keylime/tpm"
)

// as is a client of the agent with another certificate; "" = none.
func (r *running) as(certFile, keyFile string) *http.Client {
	r.t.Helper()
	settings := &tls.Config{InsecureSkipVerify: true} // what matters here is whom the agent believes
	if certFile != "" {
		pair, err := tls.LoadX509KeyPair(certFile, keyFile)
		if err != nil {
			r.t.Fatal(err)
		}
		settings.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return &pair, nil }
	}
	transport := &http.Transport{TLSClientConfig: settings}
	r.t.Cleanup(transport.CloseIdleConnections)
	return &http.Client{Transport: transport, Timeout: 20 * time.Second}
}

// NT-52, NT-53, NT-60: who is not an administrator gets no answer at all.
func TestClientsWithoutTheRightCertificateAreRefused(t *testing.T) {
	t.Parallel()
	m := newMachine(t)
	if err := m.ca.EnsureLeaf(pki.Leaf{Name: "for-servers", Kind: pki.Server, Hosts: []string{"127.0.0.1"}}); err != nil {
		t.Fatal(err)
	}
	other := filepath.Join(t.TempDir(), "other_ca")
	issue := func(dir string, options pki.CAOptions, name string) {
		options.Password, options.CommonName, options.Bits, options.Lifetime = "test", "CA", 2048, 24*time.Hour
		ca, err := pki.EnsureCA(dir, options)
		if err == nil {
			err = ca.EnsureLeaf(pki.Leaf{Name: name, Kind: pki.Client})
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	issue(other, pki.CAOptions{LeafLifetime: time.Hour}, "client")
	issue(m.caDir, pki.CAOptions{LeafLifetime: time.Minute, Now: func() time.Time { return time.Now().Add(-time.Hour) }}, "expired")
	r := m.start()
	for name, client := range map[string]*http.Client{
		"no certificate":              r.as("", ""),
		"certificate of another CA":   r.as(filepath.Join(other, "client-cert.crt"), filepath.Join(other, "client-private.pem")),
		"the agent's own certificate": r.as(m.cfg.ServerCert, m.cfg.ServerKey),
		"a server's certificate":      r.as(filepath.Join(m.caDir, "for-servers-cert.crt"), filepath.Join(m.caDir, "for-servers-private.pem")),
		"an expired certificate":      r.as(filepath.Join(m.caDir, "expired-cert.crt"), filepath.Join(m.caDir, "expired-private.pem")),
	} {
		for _, request := range []string{"GET /version", "GET /v2.6/quotes/identity?nonce=abc", "POST /v2.6/keys/ukey", "POST /v2.6/keys/vkey", "HEAD /v2.6/agent/info", "OPTIONS *"} {
			method, path, _ := strings.Cut(request, " ")
			req, err := http.NewRequest(method, r.base+strings.TrimPrefix(path, "*"), strings.NewReader("{}"))
			if err != nil {
				t.Fatal(err)
			}
			if response, err := client.Do(req); err == nil {
				response.Body.Close()
				t.Errorf("%s: %s was answered with %s", name, request, response.Status)
			}
		}
	}
	good := r.as(filepath.Join(m.caDir, "client-cert.crt"), filepath.Join(m.caDir, "client-private.pem"))
	response, err := good.Get(r.base + "/version")
	if err != nil {
		t.Fatal(err)
	}
	response.Body.Close()
	if response.StatusCode != 200 {
		t.Errorf("the administrator got %s", response.Status)
	}
}

// What anybody may do to a listener whom the network lets through.
func TestHostileConnections(t *testing.T) {
	t.Parallel()
	r := newMachine(t).start()
	t.Run("old TLS", func(t *testing.T) { r.speakOldTLS(t) })
	t.Run("unfinished handshakes", func(t *testing.T) { r.leaveHandshakes(t) })
	t.Run("ambiguous requests", func(t *testing.T) { r.sendAmbiguous(t) })
	t.Run("slow headers", func(t *testing.T) { r.dawdle(t) })
}

// NT-56
func (r *running) speakOldTLS(t *testing.T) {
	settings := r.adminTLS("client")
	settings.InsecureSkipVerify = true
	settings.MinVersion, settings.MaxVersion = tls.VersionTLS10, tls.VersionTLS11
	if conn, err := tls.Dial("tcp", strings.TrimPrefix(r.base, "https://"), settings); err == nil {
		conn.Close()
		t.Error("TLS 1.1 is spoken")
	}
}

// NT-50: connections that never finish their handshake do not keep others out.
func (r *running) leaveHandshakes(t *testing.T) {
	address := strings.TrimPrefix(r.base, "https://")
	for i := range 500 {
		conn, err := net.Dial("tcp", address)
		if err != nil {
			t.Fatalf("connection %d: %v", i, err)
		}
		defer conn.Close()
		conn.Write([]byte{0x16, 3, 1, 2}) // the start of a ClientHello
	}
	if _, err := r.admin.IdentityQuote(t.Context(), "2.6", "abc"); err != nil {
		t.Error(err)
	}
}

// NT-51: who is slow with the request's header is cut off.
func (r *running) dawdle(t *testing.T) {
	settings := r.adminTLS("client")
	settings.InsecureSkipVerify = true
	conn, err := tls.Dial("tcp", strings.TrimPrefix(r.base, "https://"), settings)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if _, err := io.WriteString(conn, "GET /version HTTP/1.1\r\nHost: a\r\nX-"); err != nil {
		t.Fatal(err)
	}
	conn.SetReadDeadline(time.Now().Add(time.Minute))
	if _, err := io.ReadAll(conn); errors.Is(err, os.ErrDeadlineExceeded) {
		t.Error("the connection is still open after a minute")
	}
}

// NT-57: two lengths, and a request within another.
func (r *running) sendAmbiguous(t *testing.T) {
	settings := r.adminTLS("client")
	settings.InsecureSkipVerify = true
	for name, request := range map[string]string{
		"two lengths":          "POST /v2.6/keys/vkey HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\n{} ",
		"length and chunks":    "POST /v2.6/keys/vkey HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
		"two hosts":            "GET /version HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
		"line break in header": "GET /version HTTP/1.1\r\nHost: a\r\nX: a\rb\r\n\r\n",
	} {
		conn, err := tls.Dial("tcp", strings.TrimPrefix(r.base, "https://"), settings)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		if _, err := io.WriteString(conn, request); err != nil {
			t.Fatal(err)
		}
		response, err := http.ReadResponse(bufio.NewReader(conn), nil)
		if err != nil {
			continue // cut off
		}
		response.Body.Close()
		if response.StatusCode != 400 {
			t.Errorf("%s: %s", name, response.Status)
		}
	}
}

// A list of 100 MB is read and encoded while it is sent; the agent never holds it.
func TestLongListIsStreamed(t *testing.T) {
	m := newMachine(t)
	const size = 100 << 20
	file, err := os.Create(m.cfg.IMAMLPath)
	if err != nil {
		t.Fatal(err)
	}
	block := []byte(strings.Repeat("10 "+strings.Repeat("a", 40)+" ima-ng sha256:"+strings.Repeat("b", 64)+" /usr/bin/\"quoted\"\n", 1000))
	entries := uint64(0)
	for n := 0; n < size; n += len(block) {
		if _, err := file.Write(block); err != nil {
			t.Fatal(err)
		}
		entries += 1000
	}
	if err := file.Close(); err != nil {
		t.Fatal(err)
	}
	r := m.start()

	fetch := func(path string) int64 {
		response, err := r.client.Get(r.base + path)
		if err != nil {
			t.Fatal(err)
		}
		defer response.Body.Close()
		n, err := io.Copy(io.Discard, response.Body)
		if err != nil {
			t.Fatal(err)
		}
		return n
	}
	var sent int64
	grown := heapGrowth(func() { sent = fetch("/v2.6/quotes/integrity?nonce=abc&mask=0x400&partial=1&ima_ml_entry=0") })
	if sent < size {
		t.Errorf("sent %d bytes", sent)
	}
	t.Logf("the heap grew by at most %d KiB while %d MiB were sent", grown>>10, sent>>20)
	if grown > 16<<20 { // the client's buffers and garbage are among it
		t.Error("which is more than streaming takes")
	}
	// Later requests find their entry without reading the list again.
	results, err := r.admin.IntegrityQuote(t.Context(), "2.6", api.IntegrityRequest{Nonce: "abc", Mask: tpm.MaskOf(10).String(), Partial: true, Entry: entries - 1})
	if err != nil || *results.IMAEntry != entries-1 || strings.Count(*results.IMA, "\n") != 1 {
		t.Errorf("last entry: %v, %v", results, err)
	}
}

// heapGrowth is by how many bytes the heap was larger while do ran than before it.
func heapGrowth(do func()) int64 {
	runtime.GC()
	var before, now runtime.MemStats
	runtime.ReadMemStats(&before)
	stop, peak := make(chan struct{}), make(chan uint64)
	go func() {
		var most uint64
		for {
			select {
			case <-stop:
				peak <- most
				return
			case <-time.After(2 * time.Millisecond):
				runtime.ReadMemStats(&now)
				most = max(most, now.HeapInuse)
			}
		}
	}()
	do()
	close(stop)
	return int64(<-peak) - int64(before.HeapInuse)
}

// A list that can no longer be read breaks the answer off, so that nobody takes the part for the whole.
func TestListThatBreaksOffIsNotTakenForWhole(t *testing.T) {
	t.Parallel()
	m := newMachine(t)
	writeList(t, m.cfg.IMAMLPath, 200_000)
	r := m.start()
	response, err := r.client.Get(r.base + "/v2.6/quotes/integrity?nonce=abc&mask=0x400&partial=1&ima_ml_entry=0")
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	if _, err := io.ReadFull(response.Body, make([]byte, 1000)); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Truncate(m.cfg.IMAMLPath, 10); err != nil {
		t.Fatal(err)
	}
	rest, err := io.ReadAll(response.Body)
	if err == nil && strings.HasSuffix(string(rest), "}}") {
		t.Errorf("%d bytes came as if they were all", len(rest))
	}
}

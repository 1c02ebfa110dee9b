package repo

import (
	"bytes"
	"compress/gzip"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

func write(t testing.TB, dir, name, content string) {
	t.Helper()
	name = filepath.Join(dir, name)
	if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(name, []byte(content), 0o644); err != nil {
		t.Fatal(err)
	}
}

// served returns the site of a server, and without waiting between attempts.
func served(t *testing.T, h http.Handler) *Site {
	t.Helper()
	server := httptest.NewServer(h)
	t.Cleanup(server.Close)
	site, err := Remote(server.URL + "/base")
	if err != nil {
		t.Fatal(err)
	}
	site.remote.wait = time.Millisecond
	t.Cleanup(func() { site.Close() })
	return site
}

func TestBothKindsOfSitesReadFiles(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	write(t, dir, "base/sub/a file", "content")
	local, err := Local(filepath.Join(dir, "base"))
	if err != nil {
		t.Fatal(err)
	}
	defer local.Close()
	for _, site := range []*Site{local, served(t, http.FileServer(http.Dir(dir)))} {
		got, err := site.Read(context.Background(), "sub/a file", 7)
		if string(got) != "content" || err != nil {
			t.Errorf("%s: %q, %v", site, got, err)
		}
		if _, err := site.Read(context.Background(), "sub/a file", 6); err == nil || !strings.Contains(err.Error(), "larger than 6 bytes") {
			t.Errorf("%s: beyond its limit: %v", site, err)
		}
		if _, found, err := site.ReadIfThere(context.Background(), "sub/none", 6); found || err != nil {
			t.Errorf("%s: what is not there: %v, %v", site, found, err)
		}
		for _, name := range []string{"../x", "/etc/passwd", "a/../../b", "", "http://elsewhere/x"} {
			if _, err := site.Open(context.Background(), name); err == nil {
				t.Errorf("%s: %q was opened", site, name)
			}
		}
	}
}

func TestLocalSitesAreNotLeft(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	write(t, dir, "secret", "secret")
	write(t, dir, "base/inside", "inside")
	for name, target := range map[string]string{"out": "../secret", "abs": filepath.Join(dir, "secret"), "in": "inside"} {
		if err := os.Symlink(target, filepath.Join(dir, "base", name)); err != nil {
			t.Fatal(err)
		}
	}
	if err := syscall.Mkfifo(filepath.Join(dir, "base/pipe"), 0o600); err != nil {
		t.Fatal(err)
	}
	site, err := Local(filepath.Join(dir, "base"))
	if err != nil {
		t.Fatal(err)
	}
	defer site.Close()
	if got, err := site.Read(context.Background(), "in", 10); string(got) != "inside" || err != nil {
		t.Errorf("a link within: %q, %v", got, err)
	}
	for _, name := range []string{"out", "abs", "pipe", "."} {
		if got, err := site.Read(context.Background(), name, 10); err == nil {
			t.Errorf("%s: read %q", name, got)
		}
	}
}

func TestServersCannotSendUsElsewhere(t *testing.T) {
	t.Parallel()
	var reached atomic.Bool
	other := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { reached.Store(true) }))
	defer other.Close()
	mux := http.NewServeMux()
	mux.Handle("/base/host", http.RedirectHandler(other.URL, http.StatusFound))
	mux.Handle("/base/scheme", http.RedirectHandler("file:///etc/passwd", http.StatusFound))
	mux.Handle("/base/loop", http.RedirectHandler("/base/loop", http.StatusFound))
	mux.Handle("/base/moved", http.RedirectHandler("/base/here", http.StatusFound))
	mux.HandleFunc("/base/here", func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, "here") })
	site := served(t, mux)
	for _, name := range []string{"host", "scheme", "loop"} {
		if got, err := site.Read(context.Background(), name, 100); err == nil {
			t.Errorf("%s: read %q", name, got)
		}
	}
	if reached.Load() {
		t.Error("the other server was asked")
	}
	if got, err := site.Read(context.Background(), "moved", 100); string(got) != "here" || err != nil {
		t.Errorf("moved on the same server: %q, %v", got, err)
	}
}

func TestBusyServersAreAskedAgain(t *testing.T) {
	t.Parallel()
	var requests atomic.Int32
	site := served(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch {
		case strings.HasSuffix(r.URL.Path, "missing"):
			requests.Add(1)
			w.WriteHeader(http.StatusNotFound)
		case strings.HasSuffix(r.URL.Path, "broken"), requests.Add(1) < attempts:
			w.WriteHeader(http.StatusServiceUnavailable)
		default:
			io.WriteString(w, "at last")
		}
	}))
	if got, err := site.Read(context.Background(), "busy", 100); string(got) != "at last" || err != nil {
		t.Errorf("%q, %v", got, err)
	}
	requests.Store(0)
	if _, err := site.Open(context.Background(), "missing"); !errors.Is(err, fs.ErrNotExist) || requests.Load() != 1 {
		t.Errorf("missing, asked %d times: %v", requests.Load(), err)
	}
	if _, err := site.Open(context.Background(), "broken"); err == nil || !strings.Contains(err.Error(), "503") {
		t.Errorf("broken: %v", err)
	}
}

func TestOnlyTheFirstBytesAreAskedFor(t *testing.T) {
	t.Parallel()
	var asked atomic.Value
	site := served(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked.Store(r.Header.Get("Range"))
		http.ServeContent(w, r, "x", time.Time{}, strings.NewReader("0123456789"))
	}))
	f, err := site.OpenFirst(context.Background(), "x", 4)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if got, err := io.ReadAll(f); string(got) != "0123" || err != nil || asked.Load() != "bytes=0-3" {
		t.Errorf("asked for %s: %q, %v", asked.Load(), got, err)
	}
}

func TestAddressesOfRepositories(t *testing.T) {
	t.Parallel()
	for _, address := range []string{"", "example.org/x", "ftp://example.org/x", "file:///etc", "https://", "https://h/x?y", "https://h/x#y", "http://[::1"} {
		if _, err := Remote(address); err == nil {
			t.Errorf("%q was accepted", address)
		}
	}
	site, err := Remote("https://user:secret@example.org/a b")
	if err != nil {
		t.Fatal(err)
	}
	if got := site.Where("c+d~1^2.rpm"); got != "https://user:xxxxx@example.org/a%20b/c+d~1%5E2.rpm" {
		t.Errorf("messages show %s", got)
	}
}

func gzipped(t testing.TB, text string) string {
	t.Helper()
	var b bytes.Buffer
	w := gzip.NewWriter(&b)
	if _, err := io.WriteString(w, text); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

func sumOf(content string) Checksum {
	sum := sha256.Sum256([]byte(content))
	return Checksum{"sha256", sum[:], int64(len(content))}
}

func TestIndicesAreWhatTheirChecksumsSay(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	content := gzipped(t, "index")
	write(t, dir, "index.gz", content)
	site, err := Local(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer site.Close()
	read := func(sum *Checksum) (got string, err error) {
		err = site.Index(context.Background(), "index.gz", sum, func(r io.Reader) error {
			first := make([]byte, 2) // a parser need not read all
			_, err := io.ReadFull(r, first)
			got = string(first)
			return err
		})
		return got, err
	}
	right := sumOf(content)
	if got, err := read(&right); got != "in" || err != nil {
		t.Errorf("%q, %v", got, err)
	}
	unsized := right
	unsized.Size = -1
	if _, err := read(&unsized); err != nil {
		t.Error(err)
	}
	if _, err := read(nil); err != nil {
		t.Error(err)
	}
	short, long, other := right, right, sumOf("other")
	short.Size--
	long.Size++
	other.Size = right.Size
	for what, sum := range map[string]Checksum{"longer than stated": short, "shorter than stated": long, "other content": other} {
		if _, err := read(&sum); err == nil {
			t.Errorf("%s: no error", what)
		}
	}
}

func TestWeakChecksumsProveNothing(t *testing.T) {
	t.Parallel()
	digits := strings.Repeat("ab", 32)
	if _, err := ParseChecksum("sha256", digits, 1); err != nil {
		t.Error(err)
	}
	for _, c := range [][2]string{{"md5", digits[:32]}, {"sha1", digits[:40]}, {"sha", digits[:40]}, {"", digits}, {"sha256", digits[:62]}, {"sha256", "x" + digits[1:]}} {
		if _, err := ParseChecksum(c[0], c[1], 1); err == nil {
			t.Errorf("%s %s was accepted", c[0], c[1])
		}
	}
}

func TestEachEndsAtTheFirstError(t *testing.T) {
	t.Parallel()
	var done atomic.Int32
	items := make([]int, 1000)
	for i := range items {
		items[i] = i
	}
	err := Each(context.Background(), 4, items, func(ctx context.Context, i int) error {
		done.Add(1)
		if i == 10 {
			return fmt.Errorf("item %d", i)
		}
		return nil
	})
	if err == nil || err.Error() != "item 10" || done.Load() > 100 {
		t.Errorf("after %d: %v", done.Load(), err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if err := Each(ctx, 4, items, func(context.Context, int) error { return nil }); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
	if err := Each(context.Background(), 0, items, func(context.Context, int) error { return nil }); err != nil {
		t.Error(err)
	}
}

package rpm

import (
	"bytes"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/ProtonMail/go-crypto/openpgp"
	"github.com/ProtonMail/go-crypto/openpgp/armor"
	"github.com/rs/zerolog"

	"keylime/internal/policytool/repo"
)

// TestHeadersStateWhatPackagesHold: rpmbuild makes packages, and the digests are those of the files that rpm2archive unpacks.
func TestHeadersStateWhatPackagesHold(t *testing.T) {
	t.Parallel()
	for _, compression := range []string{"gz", "xz", "zstd"} {
		if compression == "zstd" && createrepoLacksZstd(t) {
			continue
		}
		dir := repository(t, "--general-compress-type="+compression)
		if got, want := mustCollect(t, local(t, dir, options)), unpacked(t, dir); got != want || !strings.Contains(got, "/usr/bin/hard ") {
			t.Errorf("%s: got\n%s\nwant\n%s", compression, got, want)
		}
	}
}

func createrepoLacksZstd(t *testing.T) bool {
	requireTools(t)
	out, err := exec.Command("createrepo_c", "--general-compress-type=zstd", t.TempDir()).CombinedOutput()
	return err != nil && bytes.Contains(out, []byte("Unknown"))
}

func TestDigestsOfEachAlgorithm(t *testing.T) {
	t.Parallel()
	requireTools(t)
	dir := t.TempDir()
	for name, algorithm := range map[string]int{"md": 1, "one": 2, "two": 8, "three": 9, "five": 10} {
		build(t, dir, recipe{name, algorithm, map[string]string{"/usr/bin/" + name: "abc"}, ""})
	}
	run(t, "createrepo_c", "--quiet", dir)
	var log bytes.Buffer
	o := options
	o.Log = zerolog.New(&log)
	got := mustCollect(t, local(t, dir, o))
	const want = "/usr/bin/five ddaf35a193617abacc417349ae20413112e6fa4e89a97ea20a9eeee64b55d39a2192992a274fc1a836ba3c23a3feebbd454d4423643ce80e2a9ac94fa54ca49f\n" +
		"/usr/bin/one a9993e364706816aba3e25717850c26c9cd0d89d\n" +
		"/usr/bin/three cb00753f45a35e8bb5a03d699ac65007272c32ab0eded1631a8b605a43ff5bed8086072ba1e7cc2358baeca134c825a7\n" +
		"/usr/bin/two ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
	if got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
	if !strings.Contains(log.String(), "4 files of packages have digests of another algorithm than sha256") {
		t.Errorf("nothing said that some digests never match: %s", log.String())
	}
}

// counted serves a directory and counts the bytes that it sends.
func counted(t testing.TB, dir string, sent *atomic.Int64) *repo.Site {
	t.Helper()
	files := http.FileServer(http.Dir(dir))
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		files.ServeHTTP(countingWriter{w, sent}, r)
	}))
	t.Cleanup(server.Close)
	site, err := repo.Remote(server.URL + "/")
	if err != nil {
		t.Fatal(err)
	}
	return site
}

type countingWriter struct {
	http.ResponseWriter
	n *atomic.Int64
}

func (w countingWriter) Write(p []byte) (int, error) {
	w.n.Add(int64(len(p)))
	return w.ResponseWriter.Write(p)
}

func TestOfPackagesOnServersTheHeadersAreRead(t *testing.T) {
	t.Parallel()
	requireTools(t)
	dir := t.TempDir()
	random := make([]byte, 4<<20) // does not compress
	for i := range random {
		random[i] = byte(i * i >> 7 * 31)
	}
	build(t, dir, recipe{"big", 8, map[string]string{"/usr/bin/big": string(random)}, ""})
	run(t, "createrepo_c", "--quiet", dir)
	var sent atomic.Int64
	got := mustCollect(t, NewRepository(counted(t, dir, &sent), options))
	if want := unpacked(t, dir); got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
	if n := sent.Load(); n > 64<<10 {
		t.Errorf("%d bytes were transferred", n)
	}
}

func TestExtendedListsAreEnoughOnServers(t *testing.T) {
	t.Parallel()
	dir := repository(t)
	want := unpacked(t, dir)
	extend(t, dir, want)
	packages, err := packagesIn(os.DirFS(dir))
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range packages {
		if err := os.Remove(filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	if got := mustCollect(t, NewRepository(counted(t, dir, new(atomic.Int64)), options)); got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
	list := filepath.Join(dir, "repodata/filelists-ext.xml")
	text, err := os.ReadFile(list)
	if err != nil {
		t.Fatal(err)
	}
	write(t, list, strings.Replace(string(text), "/usr/bin/alpha", "/usr/bin/gamma", 1))
	if _, err := collected(t, NewRepository(counted(t, dir, new(atomic.Int64)), options)); err == nil || !strings.Contains(err.Error(), "the index states") {
		t.Errorf("a changed list: %v", err)
	}
}

func TestMetadataVouchForPackages(t *testing.T) {
	t.Parallel()
	dir := repository(t)
	name := filepath.Join(dir, "noarch/beta-1.0-1.noarch.rpm")
	original, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	payload := slices.Clone(original)
	payload[len(payload)-1] ^= 1
	header := bytes.Replace(original, []byte("big"), []byte("BIG"), 1)
	for what, content := range map[string][]byte{
		"payload": payload, "header": header, "longer": append(slices.Clone(original), 0), "cut": original[:len(original)/2], "empty": nil, "no package": []byte("#!/bin/sh\n"),
	} {
		write(t, name, string(content))
		if _, err := collected(t, local(t, dir, options)); err == nil || !strings.Contains(err.Error(), "beta-1.0-1") {
			t.Errorf("%s changed: %v", what, err)
		}
	}
	write(t, name, string(header))
	if _, err := collected(t, NewRepository(counted(t, dir, new(atomic.Int64)), options)); err == nil || !strings.Contains(err.Error(), "damaged") {
		t.Errorf("a damaged header on a server: %v", err)
	}
}

func TestUnlistedPackages(t *testing.T) {
	t.Parallel()
	dir := repository(t)
	listed := unpacked(t, dir)
	build(t, dir, recipe{"late", 8, map[string]string{"/usr/bin/late": "late"}, ""})
	var log bytes.Buffer
	o := options
	o.Log = zerolog.New(&log)
	if got, want := mustCollect(t, local(t, dir, o)), unpacked(t, dir); got != want || !strings.Contains(log.String(), "not in its metadata: read nevertheless") {
		t.Errorf("got\n%s\nwant\n%s\n%s", got, want, log.String())
	}
	sign(t, dir)
	if got := mustCollect(t, local(t, dir, o)); got != listed || !strings.Contains(log.String(), "not in its metadata: left out") {
		t.Errorf("signed: got\n%s\nwant\n%s\n%s", got, listed, log.String())
	}
	if err := os.Remove(filepath.Join(dir, "noarch/beta-1.0-1.noarch.rpm")); err != nil {
		t.Fatal(err)
	}
	mustCollect(t, local(t, dir, o))
	if !strings.Contains(log.String(), "are not there") {
		t.Errorf("a missing package: %s", log.String())
	}
}

// sign signs a repository with a new key, whose public half it lays beside and returns.
func sign(t testing.TB, dir string) []byte {
	t.Helper()
	e, err := openpgp.NewEntity("repository", "", "r@example.org", nil)
	if err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(filepath.Join(dir, repomdFile))
	if err != nil {
		t.Fatal(err)
	}
	var sig, public bytes.Buffer
	if err := openpgp.ArmoredDetachSign(&sig, e, bytes.NewReader(text), nil); err != nil {
		t.Fatal(err)
	}
	w, err := armor.Encode(&public, openpgp.PublicKeyType, nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := e.Serialize(w); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	public.WriteString("\n")
	write(t, filepath.Join(dir, repomdFile+".asc"), sig.String())
	write(t, filepath.Join(dir, repomdFile+".key"), public.String())
	return public.Bytes()
}

func TestSignedMetadata(t *testing.T) {
	t.Parallel()
	dir := repository(t)
	want := unpacked(t, dir)
	trusted := options
	key := sign(t, dir)
	var err error
	if trusted.Keyring, err = repo.ParseKeyring(key); err != nil {
		t.Fatal(err)
	}
	open := map[string]func(o Options) *Repository{
		"local":  func(o Options) *Repository { return local(t, dir, o) },
		"remote": func(o Options) *Repository { return NewRepository(counted(t, dir, new(atomic.Int64)), o) },
	}
	check := func(what string, o Options, good bool) {
		t.Helper()
		for kind, f := range open {
			got, err := collected(t, f(o))
			if good && (err != nil || got != want) || !good && err == nil {
				t.Errorf("%s, %s: %v\n%s", kind, what, err, got)
			}
		}
	}
	check("its own key", options, true)
	check("trusted key", trusted, true)
	sign(t, dir)
	check("its own new key", options, true)
	check("key not trusted", trusted, false)
	if err := os.Remove(filepath.Join(dir, repomdFile+".key")); err != nil {
		t.Fatal(err)
	}
	check("no key", options, false)
	sign(t, dir)
	f, err := os.OpenFile(filepath.Join(dir, repomdFile), os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.WriteString("\n"); err != nil {
		t.Fatal(err)
	}
	f.Close()
	check("changed after signing", options, false)
	if err := os.Remove(filepath.Join(dir, repomdFile+".asc")); err != nil {
		t.Fatal(err)
	}
	check("not signed", options, true)
	check("not signed, keyring given", trusted, false)
}

// TestSignedServersAreReadWhole: what a signature vouches for is not given up for speed.
func TestSignedServersAreReadWhole(t *testing.T) {
	t.Parallel()
	dir := repository(t)
	name := filepath.Join(dir, "noarch/beta-1.0-1.noarch.rpm")
	content, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	content[len(content)-1] ^= 1
	write(t, name, string(content))
	if _, err := collected(t, NewRepository(counted(t, dir, new(atomic.Int64)), options)); err != nil {
		t.Errorf("not signed, headers are enough: %v", err)
	}
	sign(t, dir)
	if _, err := collected(t, NewRepository(counted(t, dir, new(atomic.Int64)), options)); err == nil || !strings.Contains(err.Error(), "beta") {
		t.Errorf("signed: %v", err)
	}
}

func TestWhatIsNoRepository(t *testing.T) {
	t.Parallel()
	if _, err := collected(t, local(t, t.TempDir(), options)); err == nil || !strings.Contains(err.Error(), "no RPM repository") {
		t.Errorf("an empty directory: %v", err)
	}
	if _, err := collected(t, NewRepository(counted(t, t.TempDir(), new(atomic.Int64)), options)); err == nil || !strings.Contains(err.Error(), "no RPM repository") {
		t.Errorf("a server of an empty directory: %v", err)
	}
}

// peerScript prints what upstream's tool finds in a repository, with RPM's own Python binding.
const peerScript = `
import json, sys
sys.path.append("/usr/lib/python3/dist-packages")
from keylime.policy import rpm_repo
read = rpm_repo.analyze_remote_repo if sys.argv[1].startswith("http") else rpm_repo.analyze_local_repo
digests, _, ok = read(sys.argv[1])
assert ok
print("DIGESTS" + json.dumps(digests))
`

// TestSameDigestsAsUpstream compares with upstream's tool: a directory, a server, and a server with an extended list.
// Spaces, which IMA prints as underscores, and source packages are the differences.
func TestSameDigestsAsUpstream(t *testing.T) {
	t.Parallel()
	venv := os.Getenv("KEYLIME_PEER_VENV")
	if venv == "" {
		t.Skip("KEYLIME_PEER_VENV names no environment with upstream's tool; scripts/setup.sh peer makes one")
	}
	dir := repository(t)
	extended := repository(t)
	extend(t, extended, unpacked(t, extended))
	serve := func(dir string) string {
		server := httptest.NewServer(http.FileServer(http.Dir(dir)))
		t.Cleanup(server.Close)
		return server.URL
	}
	for _, where := range []string{dir, serve(dir), serve(extended)} {
		begin := time.Now()
		out, err := exec.Command(filepath.Join(venv, "bin/python"), "-c", peerScript, where).Output()
		if err != nil {
			t.Fatalf("%s: upstream: %v\n%s", where, err, out)
		}
		theirTime := time.Since(begin)
		var theirs map[string][]string
		_, text, _ := bytes.Cut(out, []byte("DIGESTS")) // it prints other things, too
		if err := json.Unmarshal(text, &theirs); err != nil {
			t.Fatal(err)
		}
		var want []string
		for path, digests := range theirs {
			if !strings.HasPrefix(path, "/") || strings.Trim(digests[0], "0") == "" {
				continue
			}
			want = append(want, strings.ReplaceAll(path, " ", "_")+" "+digests[0])
		}
		slices.Sort(want)
		site, err := repo.Local(dir)
		if strings.HasPrefix(where, "http") {
			site, err = repo.Remote(where)
		}
		if err != nil {
			t.Fatal(err)
		}
		begin = time.Now()
		if got := mustCollect(t, NewRepository(site, options)); got != strings.Join(want, "\n") || len(want) < 7 {
			t.Errorf("%s: got\n%s\nupstream's\n%s", where, got, strings.Join(want, "\n"))
		}
		t.Logf("%s: %s, upstream's tool %s", where, time.Since(begin), theirTime)
	}
}

// BenchmarkLocal reports the rate of a repository beside that of reading and hashing its packages.
func BenchmarkLocal(b *testing.B) {
	dir := repository(b)
	begin := time.Now()
	run(b, "sh", "-c", "find "+dir+" -name '*.rpm' -exec sha256sum {} +")
	reference := time.Since(begin)
	for b.Loop() {
		mustCollect(b, local(b, dir, options))
	}
	b.ReportMetric(float64(b.Elapsed())/float64(b.N)/float64(reference), "x-of-sha256sum")
}

package pki

import (
	"bytes"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// peer runs Keylime's Python code on a CA directory. KEYLIME_PEER_VENV names a virtual environment that has it.
type peer struct {
	t        testing.TB
	python   string
	dir      string // KEYLIME_DIR; the CA is in cv_ca
	password string
}

func newPeer(t testing.TB, password string) *peer {
	t.Helper()
	venv := os.Getenv("KEYLIME_PEER_VENV")
	if venv == "" {
		t.Skip("KEYLIME_PEER_VENV does not name a virtual environment with Keylime's Python code")
	}
	p := &peer{t, filepath.Join(venv, "bin", "python"), t.TempDir(), password}
	writeTestFile(t, filepath.Join(p.dir, "ca.conf"), fmt.Appendf(nil, `[ca]
version = 2.6
password = %s
cert_country = US
cert_ca_name = Peer CA
cert_state = MA
cert_locality = Lexington
cert_organization = Keylime
cert_org_unit = 53
cert_ca_lifetime = 3650
cert_lifetime = 365
cert_bits = 2048
cert_crl_dist = http://localhost:38080/crl
`, password))
	return p
}

func (p *peer) ca() string { return filepath.Join(p.dir, "cv_ca") }

func (p *peer) command(program string) *exec.Cmd {
	cmd := exec.Command(p.python, "-c", "from keylime import ca_util, web_util\nd = '"+p.ca()+"'\nca_util.read_password('"+p.password+"')\n"+program)
	cmd.Env = append(os.Environ(), "KEYLIME_DIR="+p.dir, "KEYLIME_CA_CONFIG="+filepath.Join(p.dir, "ca.conf"))
	cmd.Dir = p.dir
	return cmd
}

// run runs a program with ca_util, web_util and d, the CA directory, defined, and returns what it prints.
func (p *peer) run(program string) string {
	p.t.Helper()
	cmd := p.command(program)
	var errs bytes.Buffer
	cmd.Stderr = &errs
	out, err := cmd.Output()
	if err != nil {
		p.t.Fatalf("Python: %v\n%s", err, errs.String())
	}
	return string(out)
}

func (p *peer) options() CAOptions {
	o := testOptions()
	o.Password = p.password
	return o
}

// A directory that Python made serves us: we find its files, issue from it, and Python goes on from there.
func TestPeerMadeDirectory(t *testing.T) {
	t.Parallel()
	for _, password := range []string{"default", "another: 'pass' #word"} {
		p := newPeer(t, strings.ReplaceAll(password, "'", ""))
		p.run(`
import os
os.makedirs(d, 0o700)
ca_util.cmd_init(d)
ca_util.cmd_mkcert(d, 'server', password='pw', san_dns=['localhost'], san_ips=['127.0.0.1'])
ca_util.cmd_mkcert(d, 'client')
ca_util.cmd_revoke(d, serial=77)`)
		ca, err := EnsureCA(p.ca(), p.options())
		if err != nil {
			t.Fatal(err)
		}
		for _, name := range []string{"server", "client"} {
			if err := ca.EnsureLeaf(Leaf{Name: name}); err != nil {
				t.Fatal(err)
			}
		}
		if got := readCert(t, filepath.Join(p.ca(), "client-cert.crt")).SerialNumber.Int64(); got != 3 {
			t.Errorf("client certificate was issued anew, serial %d", got)
		}
		if err := ca.Issue(Leaf{Name: "ours", Kind: Client}); err != nil {
			t.Fatal(err)
		}
		ours := readCert(t, filepath.Join(p.ca(), "ours-cert.crt"))
		if err := ours.CheckSignatureFrom(ca.Certificate()); err != nil || ours.SerialNumber.Int64() != 4 {
			t.Errorf("serial %s, %v", ours.SerialNumber, err)
		}
		// Python reads the keystore that we wrote: its own keys are kept, serials go on, and so do revocations.
		if err := ca.Revoke(ours.SerialNumber); err != nil {
			t.Fatal(err)
		}
		out := p.run(`
ca_util.cmd_mkcert(d, 'later')
os = __import__('os'); os.chdir(d)
priv, salt = ca_util.read_private()
print(priv['lastserial'], priv['revoked_keys'], priv['client'] == open('client-private.pem', 'rb').read(), sorted(priv))`)
		if want := "5 ['77', '4'] True ['ca', 'client', 'lastserial', 'later', 'revoked_keys', 'server']\n"; out != want {
			t.Errorf("Python reads %q, want %q", out, want)
		}

		// Both identities work: the encrypted key, the certificates without usages.
		server := serverFiles(p.ca())
		server.KeyPassword = "pw"
		if _, err := talk(serve(t, serverTLS(t, server)), clientTLS(t, clientFiles(p.ca(), "client"))); err != nil {
			t.Error(err)
		}
	}
}

// A directory that we made serves Python: it issues, packs and revokes, and its TLS contexts accept ours.
func TestOurDirectoryServesPeer(t *testing.T) {
	t.Parallel()
	p := newPeer(t, "default")
	ca, err := EnsureCA(p.ca(), p.options())
	if err != nil {
		t.Fatal(err)
	}
	for _, l := range []Leaf{{Name: "server", Hosts: []string{"localhost", "127.0.0.1"}, KeyPassword: "pw"}, {Name: "client", Kind: Client}} {
		if err := ca.EnsureLeaf(l); err != nil {
			t.Fatal(err)
		}
	}
	out := p.run(`
ca_util.cmd_mkcert(d, 'agent')
pkg, serial, subject = ca_util.cmd_certpkg(d, 'agent')
ca_util.cmd_revoke(d, 'agent')
import zipfile, io
print(serial, sorted(zipfile.ZipFile(io.BytesIO(pkg)).namelist()))`)
	if want := "4 ['agent-cert.crt', 'agent-private.pem', 'agent-public.pem', 'cacert.crt', 'cacrl.der', 'cacrl.pem']\n"; out != want {
		t.Errorf("Python answers %q, want %q", out, want)
	}
	if err := readCert(t, filepath.Join(p.ca(), "agent-cert.crt")).CheckSignatureFrom(ca.Certificate()); err != nil {
		t.Error(err)
	}
	// Its revocation list is good for our servers.
	files := serverFiles(p.ca())
	files.KeyPassword, files.CRLFile = "pw", filepath.Join(p.ca(), "cacrl.pem")
	addr := serve(t, serverTLS(t, files))
	if _, err := talk(addr, clientTLS(t, clientFiles(p.ca(), "client"))); err != nil {
		t.Error(err)
	}
	revoked := clientTLS(t, clientFiles(p.ca(), "agent"))
	if _, err := talk(addr, revoked); err == nil {
		t.Error("a certificate that Python revoked is let in")
	}

	// Python's client to our server, and our client to Python's server, all with our files.
	p.run(pythonClient(addr, "None"))
	testPythonServer(t, p, "pw")
}

// Python verifies our agents' certificates as its trust anchor.
func TestPeerTrustsAgentCertificate(t *testing.T) {
	t.Parallel()
	p := newPeer(t, "default")
	ca, err := EnsureCA(p.ca(), p.options())
	if err != nil {
		t.Fatal(err)
	}
	if err := ca.EnsureLeaf(Leaf{Name: "client", Kind: Client}); err != nil {
		t.Fatal(err)
	}
	addr, certPEM := serveAgent(t, p.ca(), time.Now())
	writeTestFile(t, filepath.Join(p.dir, "agent.crt"), certPEM)
	p.run(pythonClient(addr, "open('agent.crt').read()"))
}

// pythonClient connects as Keylime's roles do. anchor is the agent's certificate, an expression.
func pythonClient(addr, anchor string) string {
	host, port, _ := net.SplitHostPort(addr)
	return fmt.Sprintf(`
import socket
c = web_util.generate_tls_context(d+'/client-cert.crt', d+'/client-private.pem', [d+'/cacert.crt'], is_client=True, ca_cert_string=%s)
with c.wrap_socket(socket.create_connection((%q, %s)), server_hostname=%q) as s:
    s.sendall(b'x')
    assert s.recv(1) == b'x'`, anchor, host, port, host)
}

// testPythonServer connects to a TLS server of Python's that uses the directory.
func testPythonServer(t *testing.T, p *peer, keyPassword string) {
	t.Helper()
	cmd := p.command(fmt.Sprintf(`
import socket, ssl
c = web_util.generate_tls_context(d+'/server-cert.crt', d+'/server-private.pem', [d+'/cacert.crt'], %q)
l = socket.create_server(('127.0.0.1', 0))
print(l.getsockname()[1], flush=True)
s = c.wrap_socket(l.accept()[0], server_side=True)
s.sendall(s.recv(1))
print(s.getpeercert()['subject'])
s.unwrap()`, keyPassword))
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	var errs bytes.Buffer
	cmd.Stderr = &errs
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer cmd.Wait()
	var port int
	if _, err := fmt.Fscan(out, &port); err != nil {
		t.Fatal(err, errs.String())
	}
	state, err := talk(fmt.Sprintf("127.0.0.1:%d", port), clientTLS(t, clientFiles(p.ca(), "client")))
	if err != nil || state.Version < tls.VersionTLS12 {
		t.Errorf("%v\n%s", err, errs.String())
	}
	if rest, _ := io.ReadAll(out); !strings.Contains(string(rest), "'client'") {
		t.Errorf("Python's server sees %q\n%s", rest, errs.String())
	}
}

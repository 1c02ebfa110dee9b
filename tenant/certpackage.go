package tenant

import (
	"archive/zip"
	"bytes"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"os"
	"path/filepath"
	"slices"
	"time"

	"keylime/internal/pki"
	"keylime/internal/python"
)

// notifier is the name of the certificate that signs revocation messages to agents with a certificate package.
const notifier = "RevocationNotifier"

// deliverCertificates makes a package of the agent's own certificate and key, the CA's certificate and revocation
// list, the certificate that signs revocation messages, and the files of --include. What is missing in the CA's
// directory is created.
func (t *tenant) deliverCertificates(d *delivery, o *options) error {
	dir := o.certDir
	if dir == "default" {
		dir = filepath.Join(t.cfg.KeylimeDir, "ca")
	}
	// The CA's own certificates have names in the same directory; an agent must not be given an administrator's key.
	if slices.Contains([]string{"server", "client", "ca", notifier}, o.agent) {
		return failure(exitFailed, "give the agent another id", "the id %q is the name of another certificate in a CA's directory", o.agent)
	}
	ca, err := pki.EnsureCA(dir, t.ca.Options())
	for _, name := range []string{o.agent, notifier} {
		if err == nil {
			// Not for clients: whoever holds a client certificate of the verifier's CA is an administrator.
			err = ca.EnsureLeaf(pki.Leaf{Name: name, Kind: pki.Server})
		}
	}
	if err != nil {
		return failure(exitFailed, "password in [ca] (or KEYLIME_CA_PASSWORD) must be that of the CA in "+dir, "certificates for the payload: %w", err)
	}
	archive, err := packageFiles(dir, o.agent, o.include, int64(t.cfg.MaxPayloadSize))
	if err != nil {
		return failure(exitFailed, "correct the directory, or raise max_payload_size of [tenant]", "certificate package: %w", err)
	}
	if d.revocationKey, err = readSigningKey(filepath.Join(dir, notifier+"-private.pem")); err != nil {
		return failure(exitFailed, "keys in the CA's directory must not be encrypted", "revocation key: %w", err)
	}
	if d.metadata, err = certificateMetadata(filepath.Join(dir, o.agent+"-cert.crt")); err != nil {
		return failure(exitFailed, "remove the file to have it issued again", "certificate of the agent: %w", err)
	}
	return t.seal(d, archive)
}

// packageFiles is the zip archive of a certificate package: flat and uncompressed, as agents unpack it. The files
// together may have limit bytes.
func packageFiles(dir, agent, include string, limit int64) ([]byte, error) {
	var names []string
	for _, name := range []string{agent + "-public.pem", agent + "-cert.crt", agent + "-private.pem",
		"cacert.crt", "cacrl.der", "cacrl.pem", notifier + "-cert.crt"} {
		names = append(names, filepath.Join(dir, name))
	}
	if include != "" {
		entries, err := os.ReadDir(include)
		if err != nil {
			return nil, err
		}
		for _, e := range entries {
			name := filepath.Join(include, e.Name())
			info, err := os.Stat(name)
			if err != nil {
				return nil, err
			}
			if info.Mode().IsRegular() {
				names = append(names, name)
			}
		}
	}
	var archive bytes.Buffer
	w := zip.NewWriter(&archive)
	seen := map[string]bool{}
	for _, name := range names {
		base := filepath.Base(name)
		if seen[base] {
			return nil, fmt.Errorf("%s: the package has a file %s already", name, base)
		}
		seen[base] = true
		content, err := readFile(name, limit)
		if err != nil {
			return nil, err
		}
		if limit -= int64(len(content)); limit < 0 {
			return nil, errors.New("the files together exceed max_payload_size")
		}
		if err := addFile(w, base, content); err != nil {
			return nil, err
		}
	}
	if err := w.Close(); err != nil {
		return nil, err
	}
	return archive.Bytes(), nil
}

func addFile(w *zip.Writer, name string, content []byte) error {
	h := &zip.FileHeader{Name: name, Method: zip.Store, Modified: time.Now()}
	h.SetMode(0o600)
	f, err := w.CreateHeader(h)
	if err != nil {
		return err
	}
	_, err = f.Write(content)
	return err
}

// readSigningKey is the PEM text of an unencrypted private key.
func readSigningKey(name string) (string, error) {
	text, err := readFile(name, 64<<10)
	if err != nil {
		return "", err
	}
	if _, err := pki.ReadPrivateKey(text, ""); err != nil {
		return "", fmt.Errorf("%s: %w", name, err)
	}
	return string(text), nil
}

// certificateMetadata is what the verifier's revocation messages say of the agent's certificate: its serial, and its
// subject as RFC 4514 writes it, last attribute first.
func certificateMetadata(name string) (string, error) {
	text, err := readFile(name, 64<<10)
	if err != nil {
		return "", err
	}
	block, _ := pem.Decode(text)
	if block == nil {
		return "", fmt.Errorf("%s: not PEM", name)
	}
	cert, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		return "", fmt.Errorf("%s: %w", name, err)
	}
	var subject pkix.RDNSequence
	if _, err := asn1.Unmarshal(cert.RawSubject, &subject); err != nil {
		return "", fmt.Errorf("%s: subject: %w", name, err)
	}
	metadata, err := json.Marshal(struct {
		Serial  *big.Int `json:"cert_serial"`
		Subject string   `json:"subject"`
	}{cert.SerialNumber, subject.String()})
	if err != nil {
		return "", err
	}
	return python.JSON.Render(metadata)
}

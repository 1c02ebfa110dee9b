package swtpm

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"time"

	"github.com/google/go-tpm/tpm2"
	"github.com/google/go-tpm/tpm2/transport"

	"keylime/internal/fleet"
	"keylime/tpm"
	"keylime/tpm/device"
)

const (
	certStore = "certstore"
	issuer    = "issuercert.pem"
	root      = "swtpm-localca-rootca-cert.pem"
)

// manufacture gives the TPM its state and EK certificates, from a certificate authority of its own. It reports
// whether it had to.
func manufacture(ctx context.Context, dir string) (fresh bool, err error) {
	_, err = os.Stat(filepath.Join(dir, certStore, root)) // what is made last
	if !errors.Is(err, fs.ErrNotExist) {
		return false, err
	}
	for _, d := range []string{"state", "localca", "conf", certStore} {
		if err := os.MkdirAll(filepath.Join(dir, d), 0o700); err != nil {
			return false, err
		}
	}
	if err := writeSetup(dir); err != nil {
		return false, err
	}
	setup := exec.CommandContext(ctx, "swtpm_setup", "--tpm2", "--create-ek-cert", "--overwrite",
		"--tpmstate", filepath.Join(dir, "state"),
		"--config", filepath.Join(dir, "conf", "setup.conf"))
	if out, err := setup.CombinedOutput(); err != nil {
		return false, fmt.Errorf("swtpm_setup: %w: %s", err, bytes.TrimSpace(out))
	}
	for _, name := range []string{issuer, root} {
		cert, err := os.ReadFile(filepath.Join(dir, "localca", name))
		if err != nil {
			return false, err
		}
		if err := os.WriteFile(filepath.Join(dir, certStore, name), cert, 0o644); err != nil {
			return false, err
		}
	}
	return true, nil
}

// writeSetup writes the configuration of swtpm_setup and of the certificate authority that it calls.
func writeSetup(dir string) error {
	conf, ca := filepath.Join(dir, "conf"), filepath.Join(dir, "localca")
	tool, err := exec.LookPath("swtpm_localca")
	if err != nil {
		return err
	}
	for name, text := range map[string]string{
		"setup.conf": "create_certs_tool = " + tool + "\n" +
			"create_certs_tool_config = " + conf + "/localca.conf\n" +
			"create_certs_tool_options = " + conf + "/localca.options\n" +
			"active_pcr_banks = sha1,sha256,sha384\n",
		"localca.conf": "statedir = " + ca + "\n" +
			"signingkey = " + ca + "/signkey.pem\n" +
			"issuercert = " + ca + "/" + issuer + "\n" +
			"certserial = " + ca + "/certserial\n",
		"localca.options": "--platform-manufacturer Example\n--platform-version 1.0\n--platform-model swtpm\n",
	} {
		if err := os.WriteFile(filepath.Join(conf, name), []byte(text), 0o600); err != nil {
			return err
		}
	}
	return nil
}

// certifyP256 writes a certificate of the P-256 EK to its NV index: swtpm_setup makes one for RSA and for P-384.
func (s *Server) certifyP256(ctx context.Context) error {
	t, err := device.Open(ctx, s.TCTI())
	if err != nil {
		return err
	}
	defer t.Close()
	ek, err := t.CreateEK(ctx, device.EKOptions{Alg: "ecc256"})
	if err != nil {
		return err
	}
	cert, err := s.issue(ek.Public)
	if err != nil {
		return err
	}
	return t.Commands(ctx, "write EK certificate", func(c transport.TPM) error { return writeCertificate(c, cert) })
}

// issue signs an EK certificate with the authority that made the others.
func (s *Server) issue(ek *tpm.Public) ([]byte, error) {
	cert, err := os.ReadFile(filepath.Join(s.dir, "localca", issuer))
	if err != nil {
		return nil, err
	}
	key, err := os.ReadFile(filepath.Join(s.dir, "localca", "signkey.pem"))
	if err != nil {
		return nil, err
	}
	maker, err := fleet.LoadMaker(rand.Reader, cert, key)
	if err != nil {
		return nil, err
	}
	now := time.Now()
	return maker.Certify(ek, now.Add(-time.Hour), now.AddDate(10, 0, 0))
}

// writeCertificate defines the NV index of the P-256 EK certificate, with the attributes that the EK Credential
// Profile prescribes, and writes it with the platform's authorisation.
func writeCertificate(t transport.TPM, cert []byte) error {
	const index = tpm2.TPMHandle(0x01c0000a)
	platform := func() tpm2.AuthHandle {
		return tpm2.AuthHandle{Handle: tpm2.TPMRHPlatform, Auth: tpm2.PasswordAuth(nil)}
	}
	area := tpm2.TPMSNVPublic{
		NVIndex: index,
		NameAlg: tpm2.TPMAlgSHA256,
		Attributes: tpm2.TPMANV{
			PPWrite: true, PPRead: true, OwnerRead: true, AuthRead: true, NoDA: true, PlatformCreate: true,
		},
		DataSize: uint16(len(cert)),
	}
	if _, err := (tpm2.NVDefineSpace{AuthHandle: platform(), PublicInfo: tpm2.New2B(area)}).Execute(t); err != nil {
		return fmt.Errorf("define NV index: %w", err)
	}
	pub, err := tpm2.NVReadPublic{NVIndex: index}.Execute(t)
	if err != nil {
		return fmt.Errorf("read NV index: %w", err)
	}
	const chunk = 512
	for at := 0; at < len(cert); at += chunk {
		_, err := tpm2.NVWrite{
			AuthHandle: platform(),
			NVIndex:    tpm2.NamedHandle{Handle: index, Name: pub.NVName},
			Data:       tpm2.TPM2BMaxNVBuffer{Buffer: cert[at:min(at+chunk, len(cert))]},
			Offset:     uint16(at),
		}.Execute(t)
		if err != nil {
			return fmt.Errorf("write NV index: %w", err)
		}
	}
	return nil
}

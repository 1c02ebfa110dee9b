package device

import (
	"context"
	"errors"
	"fmt"

	"github.com/google/go-tpm/tpm2"

	"keylime/tpm"
)

// EKOptions say which endorsement key to use.
type EKOptions struct {
	Alg      string // "rsa" or "rsa2048", "ecc" or "ecc256", "ecc384", …; empty is rsa2048
	Handle   uint32 // of a persistent EK; zero: create it from the template that its certificate was made for
	Password []byte // of the endorsement hierarchy; also tried for certificates that only the owner may read
}

// EK is an endorsement key of this TPM. It is immutable.
type EK struct {
	Public *tpm.Public
	Cert   []byte   // DER as it stands in NV, padding removed; nil when the TPM has none for this key
	Chain  [][]byte // DER of the issuers' certificates in NV, in the order of their indices

	persistent   tpm2.TPMHandle   // zero unless the key lives in the TPM
	saved        tpm2.TPMSContext // of a key that was created
	nameAlg      tpm2.TPMIAlgHash
	userWithAuth bool
	password     []byte
}

// CreateEK makes the EK available and reads its certificates. Without a handle it creates the key that the TPM
// has a certificate for, from the profile's low range or else from its high range; without any certificate, the
// first.
func (t *TPM) CreateEK(ctx context.Context, o EKOptions) (*EK, error) {
	templates, err := ekTemplates(o.Alg)
	if err != nil {
		return nil, fmt.Errorf("create EK: %w", err)
	}
	var ek *EK
	err = t.run(ctx, "create EK", func(c *conn) error {
		certs, err := c.readCertificates(templates, o.Password, t.nvBuffer)
		if err != nil {
			return err
		}
		if o.Handle != 0 {
			ek, err = c.persistentEK(tpm2.TPMHandle(o.Handle), certs)
		} else {
			ek, err = c.createEK(templates, certs, o.Password)
		}
		if err != nil {
			return err
		}
		ek.password = o.Password
		ek.Chain, err = c.readChain(o.Password, t.nvBuffer)
		return err
	})
	if err != nil {
		return nil, err
	}
	if err := ek.Public.CheckEK(); err != nil {
		return nil, fmt.Errorf("create EK: %w", err)
	}
	return ek, nil
}

// readCertificates returns the certificate of each template, nil for those that the TPM has none of.
func (c *conn) readCertificates(templates []ekTemplate, password []byte, buffer int) ([][]byte, error) {
	certs := make([][]byte, len(templates))
	for i, t := range templates {
		content, err := c.readNV(t.index, password, buffer)
		switch {
		case err == nil:
			certs[i] = trimPadding(content)
		case !unreadable(err):
			return nil, err
		}
	}
	return certs, nil
}

// createEK creates the key of the first template whose certificate is of that key, or of the first template.
func (c *conn) createEK(templates []ekTemplate, certs [][]byte, password []byte) (*EK, error) {
	for i, t := range templates {
		if certs[i] == nil {
			continue
		}
		ek, err := c.createPrimary(t.public, password)
		if err != nil {
			return nil, err
		}
		if certifies(certs[i], ek.Public.Key()) {
			ek.Cert = certs[i]
			return ek, nil
		}
	}
	return c.createPrimary(templates[0].public, password)
}

func (c *conn) createPrimary(template tpm2.TPMTPublic, password []byte) (ek *EK, err error) {
	rsp, err := tpm2.CreatePrimary{
		PrimaryHandle: tpm2.AuthHandle{Handle: tpm2.TPMRHEndorsement, Auth: passwordSession(password)},
		InPublic:      tpm2.New2B(template),
	}.Execute(c)
	if err != nil {
		return nil, err
	}
	defer c.flushing(rsp.ObjectHandle, &err)
	ek, err = newEK(rsp.OutPublic)
	if err != nil {
		return nil, err
	}
	ek.saved, err = c.save(rsp.ObjectHandle)
	return ek, err
}

// persistentEK uses a key that lives in the TPM, with the certificate that is this key's, if any.
func (c *conn) persistentEK(handle tpm2.TPMHandle, certs [][]byte) (*EK, error) {
	rsp, err := tpm2.ReadPublic{ObjectHandle: handle}.Execute(c)
	if err != nil {
		return nil, fmt.Errorf("persistent key 0x%08x: %w", uint32(handle), err)
	}
	ek, err := newEK(rsp.OutPublic)
	if err != nil {
		return nil, fmt.Errorf("persistent key 0x%08x: %w", uint32(handle), err)
	}
	ek.persistent = handle
	for _, cert := range certs {
		if certifies(cert, ek.Public.Key()) {
			ek.Cert = cert
			break
		}
	}
	return ek, nil
}

func newEK(area tpm2.TPM2BPublic) (*EK, error) {
	contents, err := area.Contents()
	if err != nil {
		return nil, err
	}
	public, err := tpm.ParsePublic(tpm2.Marshal(area))
	if err != nil {
		return nil, err
	}
	return &EK{
		Public:       public,
		nameAlg:      contents.NameAlg,
		userWithAuth: contents.ObjectAttributes.UserWithAuth,
	}, nil
}

// withEK loads the EK for the length of use and hands out its handle with an authorisation for one command.
func (c *conn) withEK(ek *EK, use func(tpm2.AuthHandle) error) (err error) {
	handle := ek.persistent
	if handle == 0 {
		handle, err = c.load(ek.saved)
		if err != nil {
			return fmt.Errorf("load EK: %w", err)
		}
		defer c.flushing(handle, &err)
	}
	session := tpm2.PasswordAuth(nil)
	if !ek.userWithAuth {
		policy, closePolicy, err := c.ekPolicy(ek)
		if err != nil {
			return fmt.Errorf("authorise EK: %w", err)
		}
		defer closePolicy()
		session = policy
	}
	return use(tpm2.AuthHandle{Handle: handle, Name: tpm2.TPM2BName{Buffer: ek.Public.Name()}, Auth: session})
}

// ekPolicy satisfies the profile's PolicyA: the endorsement hierarchy's authorisation.
func (c *conn) ekPolicy(ek *EK) (tpm2.Session, func(), error) {
	session, _, err := tpm2.PolicySession(c, ek.nameAlg, 16)
	if err != nil {
		return nil, nil, err
	}
	// The session is gone already when the TPM was reset meanwhile, and then nothing is left to do.
	flush := func() { _ = c.flush(session.Handle()) }
	_, err = tpm2.PolicySecret{
		AuthHandle:    tpm2.AuthHandle{Handle: tpm2.TPMRHEndorsement, Auth: passwordSession(ek.password)},
		PolicySession: session.Handle(),
		NonceTPM:      session.NonceTPM(),
	}.Execute(c)
	if err != nil {
		flush()
		return nil, nil, err
	}
	return session, flush, nil
}

// save writes a transient object out of the TPM; load brings it back in.
func (c *conn) save(h tpm2.TPMHandle) (tpm2.TPMSContext, error) {
	rsp, err := tpm2.ContextSave{SaveHandle: h}.Execute(c)
	if err != nil {
		return tpm2.TPMSContext{}, fmt.Errorf("save context: %w", err)
	}
	return rsp.Context, nil
}

func (c *conn) load(saved tpm2.TPMSContext) (tpm2.TPMHandle, error) {
	rsp, err := tpm2.ContextLoad{Context: saved}.Execute(c)
	if err != nil {
		if errors.Is(err, tpm2.TPMRCIntegrity) || errors.Is(err, tpm2.TPMRCHandle) {
			return 0, fmt.Errorf("%w: %w", ErrTPMReset, err)
		}
		return 0, err
	}
	return rsp.LoadedHandle, nil
}

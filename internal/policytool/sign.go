package policytool

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"keylime/internal/policy"
	"keylime/internal/python"
)

// defaultKeyFile is where a key goes that is made for a signature.
const defaultKeyFile = "keylime-ecdsa-key.pem"

// signRequest is what `sign runtime` is asked for.
type signRequest struct {
	policy  string
	output  string
	key     string // sign with this
	newKey  string // or make one and put it here
	backend string
	cert    string // where the certificate goes
}

func signCommand() command {
	return command{
		path:  "sign runtime",
		brief: "sign a runtime policy (DSSE)",
		about: "Signs a runtime policy, which must be valid. The signature is ECDSA with SHA-256. Without --keyfile a new key (P-256)\n" +
			"is made. Verifiers and tenants are given the public key: `openssl ec -in KEY -pubout` prints it.",
		examples: []string{
			"keylime policy sign runtime -r policy.json -k key.pem -o signed.json",
			"keylime policy sign runtime -r policy.json -p new-key.pem -o signed.json",
			"keylime policy sign runtime -r policy.json -k key.pem -b x509 -c cert.pem -o signed.json",
		},
		prepare: func(stdout io.Writer, screen *screen) call {
			r := &signRequest{backend: "ecdsa"}
			return call{required: []string{"runtime-policy"}, options: []option{
				{"runtime-policy", "r", "FILE", "", "sign the policy in `FILE`", text(&r.policy)},
				{"output", "o", "FILE", "", "write to `FILE`, not to standard output", text(&r.output)},
				{"keyfile", "k", "FILE", "", "sign with the EC private key in `FILE`, PEM without a password", text(&r.key)},
				{"keypath", "p", "FILE", "", "write the key that is made to `FILE` (" + defaultKeyFile + ")", text(&r.newKey)},
				{"backend", "b", "NAME", "", "ecdsa, or x509 to name the key by a self-signed certificate", r.setBackend},
				{"cert-outfile", "c", "FILE", "", "with x509: write the certificate to `FILE`", text(&r.cert)},
			}, run: func(context.Context) error { return r.run(stdout, screen) }}
		},
	}
}

func (r *signRequest) setBackend(name string) error {
	r.backend = strings.ToLower(name)
	if r.backend != "ecdsa" && r.backend != "x509" {
		return fmt.Errorf("invalid choice: '%s' (choose from 'ecdsa', 'x509')", name)
	}
	return nil
}

// run signs. Nothing is written before all has succeeded that can fail.
func (r *signRequest) run(stdout io.Writer, screen *screen) error {
	switch {
	case r.key != "" && r.newKey != "":
		return errors.New("only one of --keyfile, a key to sign with, and --keypath, where a new key goes, can be given")
	case r.backend == "x509" && r.cert == "":
		return errors.New("backend x509 needs --cert-outfile FILE, where the certificate goes")
	}
	payload, err := r.payload()
	if err != nil {
		return fmt.Errorf("sign %s: %w", r.policy, err)
	}
	key, made, err := r.signingKey()
	if err != nil {
		return err
	}
	envelope, cert, err := r.sign(payload, key)
	if err != nil {
		return err
	}
	if made != nil {
		name := r.newKey
		if name == "" {
			name = defaultKeyFile
		}
		if err := replaceFile(name, secretMode, writing(made)); err != nil {
			return err
		}
		fmt.Fprintf(screen, "the new private key is in %s\n", name)
	}
	if cert != nil {
		if err := replaceFile(r.cert, publicMode, writing(cert)); err != nil {
			return err
		}
	}
	signed := envelope.Encode()
	if stdoutNames[r.output] {
		signed = append(signed, '\n')
	}
	return writeOutput(r.output, stdout, writing(signed))
}

// payload is what is signed: the policy's JSON as Python writes it, whatever its spaces were.
func (r *signRequest) payload() ([]byte, error) {
	text, err := os.ReadFile(r.policy)
	if err != nil {
		return nil, err
	}
	opened, err := policy.OpenDocument(text)
	if err != nil {
		return nil, err
	}
	if opened.Envelope != nil {
		return nil, errors.New("it is signed already; sign the policy that it was made from")
	}
	if _, err := policy.CompileRuntime(text, policy.DMPolicy); err != nil {
		return nil, err
	}
	rendered, err := python.JSON.Render(text)
	return []byte(rendered), err
}

// signingKey reads the key to sign with, or makes one; made is its PEM then.
func (r *signRequest) signingKey() (key *ecdsa.PrivateKey, made []byte, err error) {
	if r.key != "" {
		text, err := os.ReadFile(r.key)
		if err != nil {
			return nil, nil, err
		}
		if key, err = policy.ParseSigningKey(text); err != nil {
			return nil, nil, fmt.Errorf("%s: %w", r.key, err)
		}
		return key, nil, nil
	}
	if key, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader); err != nil {
		return nil, nil, fmt.Errorf("make a key: %w", err)
	}
	der, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		return nil, nil, fmt.Errorf("make a key: %w", err)
	}
	return key, pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: der}), nil
}

func (r *signRequest) sign(payload []byte, key *ecdsa.PrivateKey) (envelope *policy.Envelope, cert []byte, err error) {
	if r.backend == "x509" {
		return policy.SignWithCertificate(payload, key, rand.Reader, time.Now())
	}
	envelope, err = policy.Sign(payload, key, rand.Reader)
	return envelope, nil, err
}

func writing(content []byte) func(io.Writer) error {
	return func(w io.Writer) error {
		_, err := w.Write(content)
		return err
	}
}

// verifyRequest is what `verify-signature` is asked for.
type verifyRequest struct {
	policies []string
	keys     []string
	output   string
}

func verifyCommand() command {
	return command{
		path:      "verify-signature",
		arguments: "FILE",
		brief:     "say whether a runtime policy is signed with a key",
		about:     "Verifies the signatures of a policy as tenants and verifiers do. Certificates inside of it are not trusted.",
		examples: []string{
			"keylime policy verify-signature -k public.pem signed.json",
			"keylime policy verify-signature -k public.pem -o policy.json signed.json",
		},
		prepare: func(stdout io.Writer, screen *screen) call {
			r := &verifyRequest{}
			return call{required: []string{"keyfile"}, loose: &r.policies, options: []option{
				{"runtime-policy", "r", "FILE", "", "verify the policy in `FILE`, which may also stand alone", list(&r.policies)},
				{"keyfile", "k", "FILE", "", "accept signatures by the EC public key in `FILE`, PEM; repeatable", list(&r.keys)},
				{"output", "o", "FILE", "", "write the policy without its signature to `FILE`", text(&r.output)},
			}, run: func(context.Context) error { return r.run(stdout, screen) }}
		},
	}
}

func (r *verifyRequest) run(stdout io.Writer, screen *screen) error {
	if len(r.policies) != 1 {
		return usageError("policy verify-signature", "name one policy to verify")
	}
	var keys []policy.PublicKey
	for _, name := range r.keys {
		text, err := os.ReadFile(name)
		if err != nil {
			return err
		}
		key, err := policy.ParsePublicKey(text)
		if err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		keys = append(keys, key)
	}
	name := r.policies[0]
	text, err := os.ReadFile(name)
	if err != nil {
		return err
	}
	opened, err := policy.OpenDocument(text)
	switch {
	case err != nil:
		return fmt.Errorf("%s: %w", name, err)
	case opened.Envelope == nil:
		return fmt.Errorf("%s: the policy is not signed; `keylime policy sign runtime` signs it", name)
	}
	signers, err := opened.Envelope.Verify(keys...)
	if err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	if _, err := policy.CompileRuntime(text, policy.DMPolicy); err != nil {
		return fmt.Errorf("%s: the signature is good, but the policy is not valid: %w", name, err)
	}
	for _, k := range signers {
		fmt.Fprintf(screen, "%s: good signature by key %s\n", name, k.ID())
	}
	if r.output == "" {
		return nil
	}
	return writeOutput(r.output, stdout, writing(opened.Policy))
}

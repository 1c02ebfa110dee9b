package tenant

import (
	"keylime/internal/policy"
)

// maxKeyFile bounds a public key's file.
const maxKeyFile = 16 << 10

// checkSignature verifies a runtime policy's signature with the key in a file, and returns the file's content. Without
// a file the policy must be plain: a signature that nobody checks is worth nothing.
func checkSignature(d policy.Document, keyFile, source string) ([]byte, error) {
	switch {
	case d.Envelope == nil && keyFile == "":
		return nil, nil
	case d.Envelope == nil:
		return nil, failure(exitUntrusted, "leave --runtime-policy-sig-key out if it need not be signed; `keylime policy sign runtime` signs it",
			"runtime policy %s: Runtime policy is not signed!", clean(source))
	case keyFile == "":
		return nil, failure(exitUntrusted, "give the signer's public key with --runtime-policy-sig-key",
			"runtime policy %s: Runtime policy signature verification required but no key was given!", clean(source))
	}
	text, err := readFile(keyFile, maxKeyFile)
	if err != nil {
		return nil, failure(exitFailed, "name a PEM file with the signer's public key", "--runtime-policy-sig-key: %w", err)
	}
	key, err := policy.ParsePublicKey(text)
	if err != nil {
		return nil, failure(exitFailed, "name a PEM file with the signer's public key", "--runtime-policy-sig-key %s: %w", clean(keyFile), err)
	}
	if _, err := d.Envelope.Verify(key); err != nil {
		return nil, failure(exitUntrusted, "get policy and key again from whom you trust",
			"runtime policy %s: Runtime policy failed DSSE signature verification! %w", clean(source), err)
	}
	return text, nil
}

package registrar

import (
	"crypto/hmac"
	"crypto/sha512"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"io"

	"keylime/tpm"
)

const (
	challengeLength   = 32
	challengeAlphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789"
)

// newChallenge draws the secret of a credential: 32 letters and digits, each equally likely, 190 bits together.
func newChallenge(random io.Reader) (string, error) {
	const n = len(challengeAlphabet)
	const unbiased = 256 - 256%n // bytes from here on would favour the first characters
	challenge := make([]byte, 0, challengeLength)
	var draw [challengeLength]byte
	for len(challenge) < challengeLength {
		if _, err := io.ReadFull(random, draw[:]); err != nil {
			return "", fmt.Errorf("draw a challenge: %w", err)
		}
		for _, b := range draw {
			if int(b) < unbiased && len(challenge) < challengeLength {
				challenge = append(challenge, challengeAlphabet[int(b)%n])
			}
		}
	}
	return string(challenge), nil
}

// seal makes the credential that carries the challenge to the TPM of these keys, as RegisterResults has it.
func seal(random io.Reader, k keys, challenge string) (string, error) {
	blob, err := tpm.MakeCredential(random, k.ek, k.ak.Name(), []byte(challenge))
	return base64.StdEncoding.EncodeToString(blob), err
}

// tagMatches reports, in a time that does not depend on the tag, whether it is the hex HMAC-SHA384 of the agent's id
// under the base64 text of the challenge.
func tagMatches(challenge, agentID, tag string) bool {
	sent, err := hex.DecodeString(tag)
	mac := hmac.New(sha512.New384, []byte(base64.StdEncoding.EncodeToString([]byte(challenge))))
	mac.Write([]byte(agentID))
	return hmac.Equal(mac.Sum(nil), sent) && err == nil
}

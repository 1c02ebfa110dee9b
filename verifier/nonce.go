package verifier

import (
	"crypto/rand"
	"fmt"
)

// nonceLength gives 142 bits of chance; agents take up to 64 characters, and TPMs at least 32 bytes.
const nonceLength = 24

const nonceAlphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789"

// newNonce returns fresh text of letters and digits, which is all that agents accept. Its very characters are what
// the quote must carry.
func newNonce() (string, error) {
	out := make([]byte, 0, nonceLength)
	var buf [2 * nonceLength]byte
	for {
		if _, err := rand.Read(buf[:]); err != nil {
			return "", fmt.Errorf("make nonce: %w", err)
		}
		for _, b := range buf {
			// Bytes above the last multiple of 62 would make the first letters likelier than others.
			if b >= 248 {
				continue
			}
			if out = append(out, nonceAlphabet[b%62]); len(out) == nonceLength {
				return string(out), nil
			}
		}
	}
}

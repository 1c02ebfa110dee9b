package verifier

import (
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"errors"
	"strings"
	"time"

	"keylime/internal/web"
	"keylime/store"
)

// authenticate says whose token it is: a session's id and its secret. What is kept of a token is its SHA-256, which is
// enough for 256 random bits.
func (v *Verifier) authenticate(ctx context.Context, token string) (agentID string, err error) {
	id, _, ok := strings.Cut(token, ".")
	if !ok || v.calls == nil || len(token) > maxToken {
		return "", web.ErrToken
	}
	s, err := v.calls.store.Session(ctx, id)
	if errors.Is(err, store.ErrNotFound) {
		return "", web.ErrToken
	}
	if err != nil {
		return "", err
	}
	hash := sha256.Sum256([]byte(token))
	if subtle.ConstantTimeCompare(hash[:], s.TokenHash) != 1 {
		return "", web.ErrToken
	}
	if !time.Now().Before(s.Expires) {
		return "", web.ErrTokenExpired
	}
	return s.AgentID, nil
}

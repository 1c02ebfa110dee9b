package agent

import (
	"crypto/hmac"
	"crypto/sha512"
	"crypto/subtle"
	"encoding/hex"
	"errors"
	"sync"
)

// bootstrap joins the halves of the key that opens a payload: K = U xor V. The tenant sends U with a tag that only
// the right K makes, the verifier sends V once it believes the agent. They come in any order, and more than once.
// Safe for concurrent use.
type bootstrap struct {
	agentID string

	mu   sync.Mutex
	us   []uShare // the newest last, at most maxPendingU
	vs   []vShare // at most maxPendingV
	used digests  // the encrypted U shares that made a key
	key  []byte   // K; nil until a pair fits
}

// uShare is what the tenant sends.
type uShare struct {
	sealed  string // as it was encrypted: a share sent anew is encrypted anew, a replayed one is not
	u       []byte
	tag     []byte // HMAC-SHA384(K, agent id)
	payload string // base64; "" = none
}

// vShare is what the verifier sends.
type vShare struct {
	sealed string
	v      []byte
}

// delivery is a pair that fitted.
type delivery struct {
	key     []byte
	payload string
}

func newBootstrap(agentID string) *bootstrap {
	return &bootstrap{agentID: agentID, used: digests{max: maxUsedShares}}
}

// errUsedShare answers a U share that made a key before: sending it again is a replay.
var errUsedShare = errors.New("this encrypted_key was used before: encrypt the key share again to deliver it again")

// checkShare holds what the wire says of a decrypted share: as long as an AES-128 or AES-256 key.
func checkShare(share []byte) error {
	if len(share) != 16 && len(share) != 32 {
		return errors.New("key share must have 16 or 32 bytes")
	}
	return nil
}

// addU takes a share of the tenant and returns the delivery that it completes, if any. The oldest share gives way
// when too many wait.
func (b *bootstrap) addU(share uShare) (*delivery, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.used.has(share.sealed) {
		return nil, errUsedShare
	}
	for _, waiting := range b.us {
		if waiting.sealed == share.sealed {
			return nil, nil // sent again because our answer was lost
		}
	}
	if len(b.us) == maxPendingU {
		b.us = b.us[1:]
	}
	b.us = append(b.us, share)
	return b.join(), nil
}

// addV is addU for the verifier's share. A V that was used before waits like a new one (wire: the verifier sends V
// again after a restart): it can do nothing without a new U.
func (b *bootstrap) addV(share vShare) *delivery {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, waiting := range b.vs {
		if waiting.sealed == share.sealed {
			return nil
		}
	}
	if len(b.vs) == maxPendingV {
		b.vs = b.vs[1:]
	}
	b.vs = append(b.vs, share)
	return b.join()
}

// join looks for a pair whose tag fits, newest first, and forgets all shares when there is one.
func (b *bootstrap) join() *delivery {
	for i := len(b.us) - 1; i >= 0; i-- {
		for j := len(b.vs) - 1; j >= 0; j-- {
			u, v := b.us[i], b.vs[j]
			if len(u.u) != len(v.v) {
				continue
			}
			key := make([]byte, len(u.u))
			subtle.XORBytes(key, u.u, v.v)
			if !hmac.Equal(u.tag, authTag(key, b.agentID)) {
				continue
			}
			b.key = key
			b.used.add(u.sealed)
			b.us, b.vs = nil, nil
			return &delivery{key: key, payload: u.payload}
		}
	}
	return nil
}

// waiting says how many shares of each kind found no partner.
func (b *bootstrap) waiting() (us, vs int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return len(b.us), len(b.vs)
}

// prove answers a challenge with the hex HMAC-SHA384 under K; false = no key yet.
func (b *bootstrap) prove(challenge string) (string, bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.key == nil {
		return "", false
	}
	return hex.EncodeToString(authTag(b.key, challenge)), true
}

// authTag is HMAC-SHA384 of a text.
func authTag(key []byte, text string) []byte {
	mac := hmac.New(sha512.New384, key)
	mac.Write([]byte(text))
	return mac.Sum(nil)
}

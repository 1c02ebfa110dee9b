package agent

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"

	"keylime/internal/api"
)

// mailbox opens payloads that tenants leave at the verifier for agents that call in. A payload is encrypted as in the
// pull model; its key is U xor V, V being the verifier's to give, and U sealed for this TPM (TPM2_ActivateCredential).
type mailbox struct {
	agentID string
	unseal  func(ctx context.Context, blob []byte) ([]byte, error)
	deliver func(delivery)
	last    [sha256.Size]byte // digest of the payload delivered last
}

// open delivers a payload, unless it is the one that was delivered before.
func (m *mailbox) open(ctx context.Context, p api.Payload) error {
	digest := sha256.Sum256([]byte(p.SealedU + "\n" + p.Tag + "\n" + p.V + "\n" + p.Data))
	if digest == m.last {
		return nil
	}
	blob, err := decodeBase64(p.SealedU)
	if err != nil {
		return fmt.Errorf("sealed_key: %w", err)
	}
	v, err := decodeBase64(p.V)
	if err != nil {
		return fmt.Errorf("key_share: %w", err)
	}
	tag, err := hex.DecodeString(p.Tag)
	if err != nil {
		return fmt.Errorf("auth_tag: %w", err)
	}
	u, err := m.unseal(ctx, blob)
	if err != nil {
		return fmt.Errorf("open the payload's key, which is sealed for another TPM or attestation key: %w", err)
	}
	if err := errors.Join(checkShare(u), checkShare(v)); err != nil {
		return err
	}
	pair := newBootstrap(m.agentID) // a pair of their own: no other share is to be tried
	pair.addV(vShare{sealed: p.V, v: v})
	d, err := pair.addU(uShare{sealed: base64.StdEncoding.EncodeToString(blob), u: u, tag: tag, payload: p.Data})
	switch {
	case err != nil:
		return err
	case d == nil:
		return errors.New("the two halves of the payload's key do not fit: add the agent again")
	}
	m.last = digest
	m.deliver(*d)
	return nil
}

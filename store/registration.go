package store

import (
	"bytes"
	"time"
)

// Registration is what an agent told the registrar about itself, byte for byte.
type Registration struct {
	ID       string
	Identity Identity
	IP       string // contact address as sent; "" when absent
	Port     int    // 0 when absent
	MTLSCert string // PEM, "disabled", or "" when absent
	// Challenge is the secret that the agent must recover to activate; only in pending registrations.
	Challenge string
	RegCount  int       // set by Stage
	Rev       uint64    // set by Stage
	Staged    time.Time // set by Stage
	Activated time.Time // set by Activate
}

// Identity are the parts of a registration that name the TPM. Empty means not sent.
type Identity struct {
	EKTPM, AIKTPM       []byte // TPM2B_PUBLIC
	EKCert              []byte // DER as received
	EKChain             [][]byte
	IAKTPM, IDevIDTPM   []byte // TPM2B_PUBLIC
	IAKCert, IDevIDCert []byte // DER as received
}

// Conflicts reports whether a registration with identity n may not take the place of one with identity i: a
// part that i has must be the same in n. A part that i lacks may be added.
func (i Identity) Conflicts(n Identity) bool {
	pairs := [][2][]byte{
		{i.EKTPM, n.EKTPM}, {i.AIKTPM, n.AIKTPM}, {i.EKCert, n.EKCert},
		{i.IAKTPM, n.IAKTPM}, {i.IDevIDTPM, n.IDevIDTPM}, {i.IAKCert, n.IAKCert}, {i.IDevIDCert, n.IDevIDCert},
	}
	for _, p := range pairs {
		if len(p[0]) > 0 && !bytes.Equal(p[0], p[1]) {
			return true
		}
	}
	return false
}

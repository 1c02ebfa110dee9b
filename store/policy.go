package store

import (
	"crypto/sha256"
	"encoding/hex"
	"time"
)

// PolicyKind names a collection of policies.
type PolicyKind string

const (
	RuntimePolicy      PolicyKind = "runtime"
	MeasuredBootPolicy PolicyKind = "measured-boot"
	PCRPolicy          PolicyKind = "pcr" // digests that PCRs must have
)

// PolicyKinds are all the kinds there are.
func PolicyKinds() []PolicyKind { return []PolicyKind{RuntimePolicy, MeasuredBootPolicy, PCRPolicy} }

// Policy is a named policy as uploaded.
type Policy struct {
	Kind      PolicyKind
	Name      string
	Text      []byte // exact bytes
	Digest    string // hex SHA-256 of Text; set by the store
	Generator int    // runtime policies: meta.generator
	Keys      string // PEM of the public keys that Text was found to be signed with; "" = none
	Previous  *Previous
	Rev       uint64 // set by the store, grows with each update
}

// Previous is the text that Text replaces in stages: until a moment it counts as well.
type Previous struct {
	Text   []byte
	Digest string // hex SHA-256 of Text; set by the store
	Until  time.Time
}

// DigestOf is the digest that names a version of a policy.
func DigestOf(text []byte) string {
	sum := sha256.Sum256(text)
	return hex.EncodeToString(sum[:])
}

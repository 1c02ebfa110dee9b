package store

import (
	"crypto/sha256"
	"encoding/hex"
)

// PolicyKind names a collection of policies.
type PolicyKind string

const (
	RuntimePolicy      PolicyKind = "runtime"
	MeasuredBootPolicy PolicyKind = "measured-boot"
)

// PolicyKinds are all the kinds there are.
func PolicyKinds() []PolicyKind { return []PolicyKind{RuntimePolicy, MeasuredBootPolicy} }

// Policy is a named policy as uploaded.
type Policy struct {
	Kind      PolicyKind
	Name      string
	Text      []byte // exact bytes
	Digest    string // hex SHA-256 of Text; set by the store
	Generator int    // runtime policies: meta.generator
	Rev       uint64 // set by the store, grows with each update
}

// DigestOf is the digest that names a version of a policy.
func DigestOf(text []byte) string {
	sum := sha256.Sum256(text)
	return hex.EncodeToString(sum[:])
}

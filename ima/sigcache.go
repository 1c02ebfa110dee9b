package ima

import (
	"crypto/sha256"
	"sync"
)

// SignatureCache remembers signatures that were found good. Machines of one kind have the same signed files, and each of
// them is appraised from its first entry after every boot: looking a signature up costs a small part of verifying it.
// Only good ones are kept, so that nobody without a trusted key can fill the cache. A nil cache remembers nothing. Safe
// for concurrent use.
type SignatureCache struct {
	mu sync.Mutex
	// A full young generation becomes the old one, whose entries are forgotten with it unless they are asked for.
	young, old map[signatureID]struct{}
	limit      int // of a generation
}

// signatureID is the SHA-256 of all that a verification depends on: key, hash algorithm, digest and signature.
type signatureID [sha256.Size]byte

// NewSignatureCache remembers the last n to 2n signatures, at some 50 bytes each.
func NewSignatureCache(n int) *SignatureCache {
	return &SignatureCache{young: map[signatureID]struct{}{}, limit: n}
}

func (c *SignatureCache) verify(k *Key, s signed, digest []byte) bool {
	if c == nil || len(s.bytes) > maxCachedSignature {
		return k.algorithm.verify(s.hash, digest, s.bytes)
	}
	id := identify(k, s, digest)
	if c.has(id) {
		return true
	}
	ok := k.algorithm.verify(s.hash, digest, s.bytes)
	if ok {
		c.add(id)
	}
	return ok
}

// maxCachedSignature is that of the largest RSA key.
const maxCachedSignature = maxRSABits / 8

// identify hashes fields of fixed length (the digest has that of its algorithm) and last the signature, so that no two
// signatures share an encoding.
func identify(k *Key, s signed, digest []byte) signatureID {
	var buffer [sha256.Size + 1 + maxDigest + maxCachedSignature]byte
	b := append(buffer[:0], k.fingerprint[:]...)
	b = append(b, byte(s.hash))
	b = append(b, digest...)
	b = append(b, s.bytes...)
	return sha256.Sum256(b)
}

func (c *SignatureCache) has(id signatureID) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if _, ok := c.young[id]; ok {
		return true
	}
	_, ok := c.old[id]
	if ok {
		c.insert(id)
	}
	return ok
}

func (c *SignatureCache) add(id signatureID) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.insert(id)
}

func (c *SignatureCache) insert(id signatureID) {
	if len(c.young) >= c.limit {
		c.old, c.young = c.young, make(map[signatureID]struct{}, c.limit)
	}
	c.young[id] = struct{}{}
}

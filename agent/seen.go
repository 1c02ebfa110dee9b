package agent

import "crypto/sha256"

// digests remembers the last few messages by their SHA-256 digest, so that a repeated one can be told from a new one.
// The zero value remembers nothing; set max first. Not safe for concurrent use.
type digests struct {
	max   int
	order [][sha256.Size]byte // a ring once it is full
	next  int
	held  map[[sha256.Size]byte]bool
}

func (d *digests) has(message string) bool { return d.held[sha256.Sum256([]byte(message))] }

func (d *digests) add(message string) {
	digest := sha256.Sum256([]byte(message))
	if d.held[digest] {
		return
	}
	if d.held == nil {
		d.held = make(map[[sha256.Size]byte]bool)
	}
	d.held[digest] = true
	if len(d.order) < d.max {
		d.order = append(d.order, digest)
		return
	}
	delete(d.held, d.order[d.next])
	d.order[d.next] = digest
	d.next = (d.next + 1) % d.max
}

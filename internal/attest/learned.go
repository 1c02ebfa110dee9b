package attest

import (
	"bytes"
	"encoding/json"
	"maps"
	"slices"

	"keylime/ima"
	"keylime/internal/policy"
)

// maxLearnedKeys bounds what one machine can have us keep: kernels have some dozens of keys in all keyrings.
const maxLearnedKeys = 256

// learnedKeys are the keys that a machine's kernel loaded and the policy lists. A key vouches for the files measured
// after it. It is kept for later rounds once the quote proves its entry, and not before: entries beyond the quote may be
// forged.
type learnedKeys struct {
	proven map[string]string // State.Keyrings, for as long as the list goes on from there
	loaded bool              // proven is among all
	all    []learnedKey
	ring   *ima.Keyring // of all; nil: to be made
}

type learnedKey struct {
	ring   string
	digest []byte // by which the policy lists the key
	key    *ima.Key
	line   uint64 // of its entry in the attester's list, from 1; 0: proven in an earlier round
}

// learnedRing is the JSON of one keyring in State: Keylime's, and the digests of what the keys were loaded from.
type learnedRing struct {
	PubKeys [][]byte `json:"pubkeys"`
	KeyIDs  []uint32 `json:"keyids"`
	Digests [][]byte `json:"digests"`
}

// signed reports whether a trusted key signed the file.
func (r *round) signed(e *ima.Entry) bool {
	return r.Policy.SignatureKeys().Verify(e, r.Policy.Signatures) || r.keys.ringOf(r.Policy.Runtime).Verify(e, r.Policy.Signatures)
}

// learn notes the key of an entry that the policy lists. One that cannot be used vouches for nothing, and one that is
// loaded again, as kernels do now and then, adds nothing.
func (k *learnedKeys) learn(line uint64, e *ima.Entry) {
	if len(k.all) >= maxLearnedKeys || slices.ContainsFunc(k.all, func(l learnedKey) bool {
		return l.ring == string(e.Name) && bytes.Equal(l.digest, e.Digest)
	}) {
		return
	}
	key, err := ima.ParseKey(e.Buffer)
	if err != nil {
		return
	}
	k.all = append(k.all, learnedKey{string(e.Name), bytes.Clone(e.Digest), key, line})
	k.ring = nil
}

// ringOf is the keyring of all keys that are learned so far and that the policy still lists.
func (k *learnedKeys) ringOf(p *policy.Runtime) *ima.Keyring {
	k.load()
	if k.ring == nil {
		k.ring = &ima.Keyring{}
		for _, l := range k.all {
			if _, trusted := p.Key([]byte(l.ring), l.digest); trusted {
				k.ring = k.ring.With(l.key)
			}
		}
	}
	return k.ring
}

// load reads the keys of earlier rounds, when they are first needed. What cannot be read vouches for nothing.
func (k *learnedKeys) load() {
	if k.loaded {
		return
	}
	k.loaded = true
	var before []learnedKey
	for _, name := range slices.Sorted(maps.Keys(k.proven)) {
		var r learnedRing
		if json.Unmarshal([]byte(k.proven[name]), &r) != nil || len(r.KeyIDs) != len(r.PubKeys) || len(r.Digests) != len(r.PubKeys) {
			continue
		}
		for i, spki := range r.PubKeys {
			if key, err := ima.ParseKey(spki); err == nil {
				before = append(before, learnedKey{name, r.Digests[i], key.WithID(r.KeyIDs[i]), 0})
			}
		}
	}
	k.all, k.ring = append(before, k.all...), nil
}

// upTo is State.Keyrings when the quote proves the list's first entries, that many.
func (k *learnedKeys) upTo(entries uint64) map[string]string {
	isNew := func(l learnedKey) bool { return l.line > 0 && l.line <= entries }
	if !slices.ContainsFunc(k.all, isNew) {
		return k.proven
	}
	k.load()
	rings := map[string]*learnedRing{}
	kept := 0
	for _, l := range k.all {
		if l.line > entries || kept == maxLearnedKeys {
			continue
		}
		kept++
		r := rings[l.ring]
		if r == nil {
			r = &learnedRing{}
			rings[l.ring] = r
		}
		r.add(l)
	}
	out := make(map[string]string, len(rings))
	for name, r := range rings {
		text, err := json.Marshal(r)
		if err != nil {
			panic("attest: keyring cannot be encoded: " + err.Error()) // no field of learnedRing can fail
		}
		out[name] = string(text)
	}
	return out
}

// add appends a key that is not there yet.
func (r *learnedRing) add(l learnedKey) {
	for i := range r.PubKeys {
		if bytes.Equal(r.PubKeys[i], l.key.SPKI()) && r.KeyIDs[i] == l.key.ID() && bytes.Equal(r.Digests[i], l.digest) {
			return
		}
	}
	r.PubKeys = append(r.PubKeys, l.key.SPKI())
	r.KeyIDs = append(r.KeyIDs, l.key.ID())
	r.Digests = append(r.Digests, l.digest)
}

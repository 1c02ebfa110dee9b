package bolt

import (
	"bytes"
	"context"
	"fmt"
	"maps"
	"slices"

	"go.etcd.io/bbolt"

	"keylime/store"
)

func policyKey(kind store.PolicyKind, name string) []byte {
	return append(kindKey(kind), name...)
}

// previousKey is that of the text that is being replaced. No kind is 'o'.
func previousKey(kind store.PolicyKind, name string) []byte {
	return append([]byte{'o'}, policyKey(kind, name)...)
}

func usesKey(kind store.PolicyKind, name, agentID string) []byte {
	return append(usesPrefix(kind, name), agentID...)
}

func usesPrefix(kind store.PolicyKind, name string) []byte {
	return append(kindKey(kind), sizedKey(name)...)
}

// kindKey is one byte, part of the file's format; 0 for a kind that there is not, of which there are no keys.
func kindKey(kind store.PolicyKind) []byte {
	switch kind {
	case store.RuntimePolicy:
		return []byte{'r'}
	case store.MeasuredBootPolicy:
		return []byte{'m'}
	case store.PCRPolicy:
		return []byte{'p'}
	}
	return []byte{0}
}

func (db *DB) Policy(ctx context.Context, kind store.PolicyKind, name string) (store.Policy, error) {
	var p store.Policy
	err := db.view(ctx, func(tx *bbolt.Tx) error {
		head, err := headOf(tx, kind, name)
		if err != nil {
			return err
		}
		p = head.policy(kind, name)
		p.Text = bytes.Clone(get(tx, textBucket, policyKey(kind, name)))
		if head.NilText {
			p.Text = nil
		}
		if p.Previous != nil {
			p.Previous.Text = bytes.Clone(get(tx, textBucket, previousKey(kind, name)))
		}
		return nil
	})
	if err == nil && (store.DigestOf(p.Text) != p.Digest || p.Previous != nil && store.DigestOf(p.Previous.Text) != p.Previous.Digest) {
		err = fmt.Errorf("%w (digest of the text)", store.ErrDamaged)
	}
	if err != nil {
		return store.Policy{}, fmt.Errorf("%s policy %q: %w", kind, name, err)
	}
	return p, nil
}

func (db *DB) PolicyHead(ctx context.Context, kind store.PolicyKind, name string) (store.Policy, error) {
	var head policyHead
	err := db.view(ctx, func(tx *bbolt.Tx) (err error) {
		head, err = headOf(tx, kind, name)
		return err
	})
	if err != nil {
		return store.Policy{}, fmt.Errorf("%s policy %q: %w", kind, name, err)
	}
	return head.policy(kind, name), nil
}

func headOf(tx *bbolt.Tx, kind store.PolicyKind, name string) (policyHead, error) {
	record := get(tx, policyBucket, policyKey(kind, name))
	if record == nil {
		return policyHead{}, store.ErrNotFound
	}
	var head policyHead
	err := decodeRecord(record, &head)
	return head, err
}

func (h policyHead) policy(kind store.PolicyKind, name string) store.Policy {
	p := store.Policy{Kind: kind, Name: name, Digest: h.Digest, Generator: h.Generator, Keys: h.Keys, Rev: h.Rev}
	if h.PreviousDigest != "" {
		p.Previous = &store.Previous{Digest: h.PreviousDigest, Until: h.Until}
	}
	return p
}

// PolicyKeys leaves out the keys of damaged policies: a key that cannot be read trusts nobody.
func (db *DB) PolicyKeys(ctx context.Context, kind store.PolicyKind) ([]string, error) {
	keys := map[string]bool{}
	err := db.view(ctx, func(tx *bbolt.Tx) error {
		eachKey(tx, policyBucket, kindKey(kind), func(name []byte) bool {
			if head, err := headOf(tx, kind, string(name)); err == nil && head.Keys != "" {
				keys[head.Keys] = true
			}
			return true
		})
		return nil
	})
	return slices.Sorted(maps.Keys(keys)), err
}

func (db *DB) PolicyNames(ctx context.Context, kind store.PolicyKind) ([]string, error) {
	var names []string
	err := db.view(ctx, func(tx *bbolt.Tx) error {
		eachKey(tx, policyBucket, kindKey(kind), func(name []byte) bool {
			names = append(names, string(name))
			return true
		})
		return nil
	})
	return names, err
}

func (db *DB) AddPolicy(ctx context.Context, p store.Policy) error {
	if err := p.Check(); err != nil {
		return err
	}
	return db.write(ctx, func(b *batch) error {
		if b.has(policyBucket, policyKey(p.Kind, p.Name)) {
			return fmt.Errorf("%s policy %q: %w", p.Kind, p.Name, store.ErrExists)
		}
		b.putPolicy(p)
		return nil
	})
}

func (db *DB) UpdatePolicy(ctx context.Context, p store.Policy) error {
	if err := p.Check(); err != nil {
		return err
	}
	return db.write(ctx, func(b *batch) error {
		if !b.has(policyBucket, policyKey(p.Kind, p.Name)) {
			return fmt.Errorf("%s policy %q: %w", p.Kind, p.Name, store.ErrNotFound)
		}
		if p.Rev != 0 {
			var head policyHead
			if err := decodeRecord(b.get(policyBucket, policyKey(p.Kind, p.Name)), &head); err != nil || head.Rev != p.Rev {
				return fmt.Errorf("%s policy %q: %w", p.Kind, p.Name, store.ErrConflict)
			}
		}
		b.putPolicy(p)
		return nil
	})
}

func (db *DB) DeletePolicy(ctx context.Context, kind store.PolicyKind, name string) error {
	return db.write(ctx, func(b *batch) error {
		if !b.has(policyBucket, policyKey(kind, name)) {
			return fmt.Errorf("%s policy %q: %w", kind, name, store.ErrNotFound)
		}
		if user, used := b.userOf(kind, name); used {
			return fmt.Errorf("%s policy %q: %w", kind, name, store.InUse{AgentID: user})
		}
		b.deletePolicy(kind, name)
		return nil
	})
}

// userOf names an agent that uses the policy.
func (b *batch) userOf(kind store.PolicyKind, name string) (id string, used bool) {
	eachKey(b.tx, usesBucket, usesPrefix(kind, name), func(user []byte) bool {
		id, used = string(user), true
		return false
	})
	return id, used
}

func (b *batch) putPolicy(p store.Policy) {
	head := policyHead{Digest: store.DigestOf(p.Text), Generator: p.Generator, Rev: b.next(policyBucket), NilText: p.Text == nil, Keys: p.Keys}
	b.delete(textBucket, previousKey(p.Kind, p.Name))
	if p.Previous != nil {
		head.PreviousDigest, head.Until = store.DigestOf(p.Previous.Text), store.Time(p.Previous.Until)
		b.put(textBucket, previousKey(p.Kind, p.Name), p.Previous.Text)
	}
	key := policyKey(p.Kind, p.Name)
	b.put(policyBucket, key, encodeRecord(head))
	b.put(textBucket, key, p.Text)
}

func (b *batch) deletePolicy(kind store.PolicyKind, name string) {
	b.delete(policyBucket, policyKey(kind, name))
	b.delete(textBucket, policyKey(kind, name))
	b.delete(textBucket, previousKey(kind, name))
}

package bolt

import (
	"bytes"
	"context"
	"fmt"

	"go.etcd.io/bbolt"

	"keylime/store"
)

func policyKey(kind store.PolicyKind, name string) []byte {
	return append(kindKey(kind), name...)
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
	}
	return []byte{0}
}

func (db *DB) Policy(ctx context.Context, kind store.PolicyKind, name string) (store.Policy, error) {
	p := store.Policy{Kind: kind, Name: name}
	err := db.view(ctx, func(tx *bbolt.Tx) error {
		head, err := headOf(tx, kind, name)
		if err != nil {
			return err
		}
		p.Text = bytes.Clone(get(tx, textBucket, policyKey(kind, name)))
		p.Digest, p.Generator, p.Rev = head.Digest, head.Generator, head.Rev
		if head.NilText {
			p.Text = nil
		}
		return nil
	})
	if err == nil && store.DigestOf(p.Text) != p.Digest {
		err = fmt.Errorf("%w (digest of the text)", store.ErrDamaged)
	}
	if err != nil {
		return store.Policy{}, fmt.Errorf("%s policy %q: %w", kind, name, err)
	}
	return p, nil
}

func (db *DB) PolicyDigest(ctx context.Context, kind store.PolicyKind, name string) (string, error) {
	var head policyHead
	err := db.view(ctx, func(tx *bbolt.Tx) (err error) {
		head, err = headOf(tx, kind, name)
		return err
	})
	if err != nil {
		return "", fmt.Errorf("%s policy %q: %w", kind, name, err)
	}
	return head.Digest, nil
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
	head := policyHead{Digest: store.DigestOf(p.Text), Generator: p.Generator, Rev: b.next(policyBucket), NilText: p.Text == nil}
	key := policyKey(p.Kind, p.Name)
	b.put(policyBucket, key, encodeRecord(head))
	b.put(textBucket, key, p.Text)
}

func (b *batch) deletePolicy(kind store.PolicyKind, name string) {
	b.delete(policyBucket, policyKey(kind, name))
	b.delete(textBucket, policyKey(kind, name))
}

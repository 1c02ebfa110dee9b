package bolt

import (
	"bytes"

	"go.etcd.io/bbolt"
)

// eachKey calls f with the rest of each key that begins with the prefix, in order, until f returns false.
func eachKey(tx *bbolt.Tx, in bucket, prefix []byte, f func(rest []byte) bool) {
	c := tx.Bucket([]byte(in)).Cursor()
	for k, _ := c.Seek(prefix); k != nil && bytes.HasPrefix(k, prefix); k, _ = c.Next() {
		if !f(k[len(prefix):]) {
			return
		}
	}
}

// seekBefore positions the cursor at the last key before the given one; nil when there is none.
func seekBefore(c *bbolt.Cursor, key []byte) (k, v []byte) {
	if k, _ := c.Seek(key); k == nil {
		return c.Last()
	}
	return c.Prev()
}

// seekAfter positions the cursor at the first key after the given one.
func seekAfter(c *bbolt.Cursor, key string) []byte {
	k, _ := c.Seek([]byte(key))
	if k != nil && string(k) == key {
		k, _ = c.Next()
	}
	return k
}

package store_test

import (
	"fmt"
	"reflect"
	"testing"

	"keylime/store"
)

// Every part that names the TPM counts, those added to Identity later included.
func TestIdentityConflicts(t *testing.T) {
	t.Parallel()
	parts := reflect.TypeFor[store.Identity]()
	for i := range parts.NumField() {
		part := parts.Field(i)
		if part.Name == "EKChain" {
			continue // certificates of others: they may be renewed
		}
		with := func(value string) store.Identity {
			id := store.Identity{EKTPM: []byte("ek"), AIKTPM: []byte("ak")}
			reflect.ValueOf(&id).Elem().Field(i).SetBytes([]byte(value))
			return id
		}
		for _, c := range []struct {
			before, after string
			conflict      bool
		}{
			{"one", "one", false},
			{"one", "two", true},
			{"one", "", true},  // left out
			{"", "one", false}, // added
			{"", "", false},
		} {
			if got := with(c.before).Conflicts(with(c.after)); got != c.conflict {
				t.Errorf("%s from %q to %q: conflict is %v, want %v", part.Name, c.before, c.after, got, c.conflict)
			}
		}
	}
}

func ExampleIdentity_Conflicts() {
	known := store.Identity{EKTPM: []byte("ek-1"), AIKTPM: []byte("ak-1")}
	renewed := store.Identity{EKTPM: []byte("ek-1"), AIKTPM: []byte("ak-1"), IAKTPM: []byte("iak-1")}
	other := store.Identity{EKTPM: []byte("ek-2"), AIKTPM: []byte("ak-2")}
	fmt.Println(known.Conflicts(renewed), known.Conflicts(other))
	// Output: false true
}

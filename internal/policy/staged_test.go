package policy

import (
	"bytes"
	"strings"
	"testing"
)

// hex20 is the text of a SHA-1 digest of equal bytes.
func hex20(digits string) string { return strings.Repeat(digits, 20) }

func TestBesideAcceptsWhatEitherAccepts(t *testing.T) {
	t.Parallel()
	a, b, c := bytes.Repeat([]byte{0xaa}, 20), bytes.Repeat([]byte{0xbb}, 20), bytes.Repeat([]byte{0xcc}, 20)
	old := mustCompile(t, strings.NewReplacer(`"digests":{}`, `"digests":{"/same":["`+hex20("aa")+`"],"/gone":["`+hex20("aa")+`"]}`,
		`"excludes":[]`, `"excludes":["/old/"]`, `"keyrings":{}`, `"keyrings":{".ima":["`+hex20("aa")+`"]}`,
		`"ima-buf":{}`, `"ima-buf":{"x":["`+hex20("aa")+`"]}`).Replace(EmptyRuntime))
	next := mustCompile(t, strings.NewReplacer(`"digests":{}`, `"digests":{"/same":["`+hex20("bb")+`"],"/came":["`+hex20("bb")+`"]}`,
		`"excludes":[]`, `"excludes":["/new/"]`, `"keyrings":{}`, `"keyrings":{".ima":["`+hex20("bb")+`"],".new":["`+hex20("bb")+`"]}`).Replace(EmptyRuntime))
	both, err := next.Beside(old)
	if err != nil {
		t.Fatal(err)
	}
	if both.Digest() != next.Digest() || both.Generator() != next.Generator() {
		t.Errorf("digest %s, generator %d; want those of the new policy", both.Digest(), both.Generator())
	}
	for _, f := range []struct {
		name   string
		digest []byte
		want   Reason
	}{
		{"/same", a, Accepted}, {"/same", b, Accepted}, {"/same", c, WrongDigest},
		{"/gone", a, Accepted}, {"/gone", b, NotListed}, {"/came", b, Accepted}, {"/came", a, WrongDigest},
		{"/old/x", c, Accepted}, {"/new/x", c, Accepted}, {"/other", a, NotListed},
	} {
		if got := both.File([]byte(f.name), f.digest); got.Reason != f.want {
			t.Errorf("%s %x…: %v, want %v", f.name, f.digest[:1], got.Reason, f.want)
		}
	}
	if got := both.File([]byte("/same"), c).Expected(); len(got) != 1 || got[0] != hex20("bb") {
		t.Errorf("expected %v; want what the new policy expects", got)
	}
	if got := both.Buffer([]byte("x"), a); got.Reason != Accepted {
		t.Errorf("buffer: %v", got.Reason)
	}
	for _, k := range []struct {
		ring    string
		digest  []byte
		want    Reason
		trusted bool
	}{{".ima", a, Accepted, true}, {".ima", b, Accepted, true}, {".ima", c, WrongDigest, false}, {".new", b, Accepted, true}, {".new", a, WrongDigest, false}} {
		if got, trusted := both.Key([]byte(k.ring), k.digest); got.Reason != k.want || trusted != k.trusted {
			t.Errorf("key %x… in %s: %v, trusted %v", k.digest[:1], k.ring, got.Reason, trusted)
		}
	}
	if next.File([]byte("/gone"), a).Reason != NotListed || old.File([]byte("/came"), b).Reason != NotListed {
		t.Error("a policy that is staged was changed")
	}
}

// The empty policy is no way around the one that it replaces: PCR 10 is still asked for.
func TestBesideKeepsTheMask(t *testing.T) {
	t.Parallel()
	empty, real := mustCompile(t, EmptyRuntime), mustCompile(t, with(`"digests":{}`, `"digests":{"/a":["`+hex20("aa")+`"]}`))
	for _, pair := range [][2]*Runtime{{empty, real}, {real, empty}} {
		both, err := pair[0].Beside(pair[1])
		if err != nil || both.empty() {
			t.Errorf("%v: taken for no policy", err)
		}
	}
	other := mustCompile(t, with(`"log_hash_alg":"sha1"`, `"log_hash_alg":"sha256"`))
	if _, err := other.Beside(real); err == nil || !strings.Contains(err.Error(), "log_hash_alg") {
		t.Errorf("two algorithms for one list: %v", err)
	}
	devices, err := CompileRuntime([]byte(with(`"dm_policy":null`, `"dm_policy":`+dmPolicyText)), DMPolicy)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := devices.Beside(real); err == nil || !strings.Contains(err.Error(), "dm_policy") {
		t.Errorf("two sets of rules for one history: %v", err)
	}
	if _, err := devices.Beside(devices); err != nil {
		t.Error(err)
	}
}

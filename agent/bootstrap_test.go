package agent

import (
	"encoding/hex"
	"errors"
	"fmt"
	"testing"
)

const exampleID = "d432fbb3-d2f1-4a97-9ef7-75bd81c00000"

// shares splits a key and gives each half the encrypted form name.
func shares(key []byte, name, payload string) (uShare, vShare) {
	v := make([]byte, len(key))
	for i := range v {
		v[i] = byte(3 * i)
	}
	u := make([]byte, len(key))
	for i := range u {
		u[i] = key[i] ^ v[i]
	}
	return uShare{"u " + name, u, authTag(key, exampleID), payload}, vShare{"v " + name, v}
}

func TestTagsMatchTheWire(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{
		exampleID:              "74216909e21c5a1a5fb9e0ad23881f6f1693d01b5469c4d12dfe4ea151ab3334690966790c8e3b4a358b1be3ca443e2d",
		"ABCDEFGHIJKLMNOPQRST": "3d1d025eb6cfc5f8bb1493c80991f3f76944180d74292a7eb0af5581fb124d09c5b75f979c1b34f8e589462148b59932",
	} {
		if got := hex.EncodeToString(authTag(exampleKey(), text)); got != want {
			t.Errorf("tag of %q = %s, want %s", text, got, want)
		}
	}
}

func TestSharesJoinInAnyOrder(t *testing.T) {
	t.Parallel()
	for _, size := range []int{16, 32} {
		key := exampleKey()[:size]
		u, v := shares(key, "", "payload")
		t.Run(fmt.Sprintf("U first, %d bytes", size), func(t *testing.T) {
			b := newBootstrap(exampleID)
			if got, err := b.addU(u); got != nil || err != nil {
				t.Fatalf("U alone gave %v, %v", got, err)
			}
			if _, ok := b.prove("x"); ok {
				t.Error("proves a key that it does not have")
			}
			if got := b.addV(v); got == nil || string(got.key) != string(key) || got.payload != "payload" {
				t.Errorf("got %v", got)
			}
		})
		t.Run(fmt.Sprintf("V first, %d bytes", size), func(t *testing.T) {
			b := newBootstrap(exampleID)
			if got := b.addV(v); got != nil {
				t.Fatalf("V alone gave %v", got)
			}
			got, err := b.addU(u)
			if err != nil || got == nil || string(got.key) != string(key) {
				t.Errorf("got %v, %v", got, err)
			}
			if us, vs := b.waiting(); us+vs != 0 {
				t.Errorf("%d U and %d V still wait", us, vs)
			}
		})
	}
}

// NT-60: shares that do not fit change nothing.
func TestSharesWithWrongTagMakeNoKey(t *testing.T) {
	t.Parallel()
	u, v := shares(exampleKey(), "", "payload")
	short, _ := shares(exampleKey()[:16], "short", "")
	b := newBootstrap(exampleID)
	for i := range u.tag {
		bad := u
		bad.sealed = fmt.Sprint("bad ", i)
		bad.tag = append([]byte(nil), u.tag...)
		bad.tag[i] ^= 1
		if got, err := b.addU(bad); got != nil || err != nil {
			t.Fatalf("got %v, %v", got, err)
		}
		if got := b.addV(v); got != nil {
			t.Fatalf("tag with byte %d altered fits", i)
		}
	}
	if got, _ := b.addU(short); got != nil {
		t.Error("shares of different lengths were joined")
	}
	other := newBootstrap("another-agent")
	other.addV(v)
	if got, _ := other.addU(u); got != nil {
		t.Error("a share for one agent fits another")
	}
	if _, ok := b.prove("x"); ok {
		t.Error("a key was kept")
	}
	if us, vs := b.waiting(); us > maxPendingU || vs > maxPendingV {
		t.Errorf("%d U and %d V wait", us, vs)
	}
	if got, err := b.addU(u); err != nil || got == nil {
		t.Errorf("the genuine pair no longer fits: %v, %v", got, err)
	}
}

// NT-61
func TestReplayedSharesAreRefused(t *testing.T) {
	t.Parallel()
	u, v := shares(exampleKey(), "", "payload")
	b := newBootstrap(exampleID)
	b.addV(v)
	if got, err := b.addU(u); got == nil || err != nil {
		t.Fatalf("got %v, %v", got, err)
	}
	if got := b.addV(v); got != nil {
		t.Errorf("V again gave %v", got)
	}
	if got, err := b.addU(u); !errors.Is(err, errUsedShare) || got != nil {
		t.Errorf("U again gave %v, %v", got, err)
	}
	// The same key, encrypted anew, is a tenant that adds the agent again.
	fresh, _ := shares(exampleKey(), "fresh", "payload")
	if got, err := b.addU(fresh); got == nil || err != nil {
		t.Errorf("fresh U gave %v, %v", got, err)
	}
}

func TestRepeatedShareWaitsOnce(t *testing.T) {
	t.Parallel()
	u, v := shares(exampleKey(), "", "")
	b := newBootstrap("nobody")
	for range 3 {
		if _, err := b.addU(u); err != nil {
			t.Fatal(err)
		}
		b.addV(v)
	}
	if us, vs := b.waiting(); us != 1 || vs != 1 {
		t.Errorf("%d U and %d V wait", us, vs)
	}
}

func TestDigestsForgetTheOldest(t *testing.T) {
	t.Parallel()
	d := digests{max: 3}
	for _, m := range []string{"a", "b", "b", "c", "d"} {
		d.add(m)
	}
	for m, want := range map[string]bool{"a": false, "b": true, "c": true, "d": true} {
		if d.has(m) != want {
			t.Errorf("has(%q) = %v", m, !want)
		}
	}
	for i := range 100 {
		d.add(fmt.Sprint(i))
	}
	if len(d.order) != 3 || len(d.held) != 3 || !d.has("99") || !d.has("97") || d.has("96") {
		t.Errorf("holds %d in order, %d in all", len(d.order), len(d.held))
	}
}

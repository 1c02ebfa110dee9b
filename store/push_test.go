package store

import (
	"encoding/json"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"
)

var day = time.Date(2026, 2, 3, 0, 0, 0, 0, time.UTC)

// history builds one from words: a letter for the verdict (p, f, or w for one that waits) and the number of the boot. One
// attestation comes each hour, and has its place as index, from 10.
func history(text string) []Kept {
	var all []Kept
	for i, word := range strings.Fields(text) {
		verdict := map[byte]Evaluation{'p': EvaluationPass, 'f': EvaluationFail, 'w': EvaluationPending}[word[0]]
		all = append(all, Kept{
			Index:      uint64(10 + i),
			Evaluation: verdict,
			BootTime:   day.AddDate(0, 0, int(word[1]-'0')),
			Received:   day.Add(time.Duration(i) * time.Hour),
		})
	}
	return all
}

func TestDrop(t *testing.T) {
	t.Parallel()
	since := func(hours int) Retention { return Retention{Since: day.Add(time.Duration(hours) * time.Hour)} }
	for _, c := range []struct {
		name    string
		history string
		keep    Retention
		want    []uint64
	}{
		{"nothing", "", Retention{}, nil},
		{"only one", "p1", Retention{}, nil},
		{"first and last of a run stay", "p1 p1 p1 p1", Retention{}, []uint64{11, 12}},
		{"two are a first and a last", "p1 p1", Retention{}, nil},
		{"a boot ends a run", "p1 p1 p2 p2", Retention{}, nil},
		{"so does a failure", "p1 p1 f1 p1 p1", Retention{}, nil},
		{"and one that waits", "p1 p1 p1 w1", Retention{}, []uint64{11}},
		{"failures stay, however many", "f1 f1 f1 f1", Retention{}, nil},
		{"runs on both sides of a failure", "p1 p1 p1 f1 p1 p1 p1", Retention{}, []uint64{11, 15}},
		{"old ones go", "f1 f1 f1 f1", since(2), []uint64{10, 11}},
		{"the moment itself is not old", "f1 f1", since(0), nil},
		{"the latest stays, however old", "f1 f1 f1", since(100), []uint64{10, 11}},
		{"an old one that is inside a run goes once", "p1 p1 p1 p1", since(2), []uint64{10, 11, 12}},
		{"too many", "f1 f1 f1 f1", Retention{Count: 2}, []uint64{10, 11}},
		{"what goes anyway does not count", "p1 p1 p1 p1 p1", Retention{Count: 2}, []uint64{11, 12, 13}},
		{"the latest is the last to go", "f1 p1", Retention{Count: 1}, []uint64{10}},
		{"no limit", "f1 f1", Retention{Count: 0}, nil},
		{"fewer than the limit", "f1 f1", Retention{Count: 3}, nil},
		{"age and number", "f1 f1 f1 f1 f1", Retention{Count: 2, Since: since(1).Since}, []uint64{10, 11, 12}},
	} {
		got := c.keep.Drop(history(c.history))
		if !slices.Equal(got, c.want) {
			t.Errorf("%s: %q: dropped %v, want %v", c.name, c.history, got, c.want)
		}
	}
}

// However a history comes about, what is dropped step by step leaves what matters: the latest, and every failure.
func TestDropAgainAndAgain(t *testing.T) {
	t.Parallel()
	var kept []Kept
	for i, k := range history(strings.Repeat("p1 p1 p1 p2 p2 f2 p2 p2 p2 ", 20)) {
		kept = append(kept, k)
		drop := Retention{}.Drop(kept)
		kept = slices.DeleteFunc(kept, func(k Kept) bool { return slices.Contains(drop, k.Index) })
		if kept[len(kept)-1].Index != uint64(10+i) {
			t.Fatalf("the latest is gone after %d", i)
		}
	}
	failures := 0
	for _, k := range kept {
		if k.Evaluation == EvaluationFail {
			failures++
		}
	}
	// Of each nine: the ends of the run of boot 1, those of boot 2 before and after the failure, and the failure.
	if failures != 20 || len(kept) != 20*7 {
		t.Errorf("%d failures of 20 and %d in all of %d are kept", failures, len(kept), 20*7)
	}
}

func TestCallRecordsAreChecked(t *testing.T) {
	t.Parallel()
	const id = "d432fbb3-d2f1-4a97-9ef7-75bd81c00000"
	item := EvidenceItem{Class: "log", Type: "ima_log", Capabilities: json.RawMessage("{}"), Chosen: json.RawMessage("{}"),
		Data: make([]byte, MaxAttestation/2)}
	big := make([]byte, MaxSecret+1)
	for _, c := range []struct {
		name   string
		record interface{ Check() error }
		want   error
	}{
		{"attestation", Attestation{AgentID: id, Items: []EvidenceItem{item}}, nil},
		{"attestation of nobody", Attestation{}, ErrInvalid},
		{"attestation, its items together", Attestation{AgentID: id, Items: []EvidenceItem{item, item}}, ErrTooLarge},
		{"attestation, its context", Attestation{AgentID: id, Context: strings.Repeat("x", MaxAttestation+1)}, ErrTooLarge},
		{"attestation, its extensions", Attestation{AgentID: id, Extensions: []string{strings.Repeat("x", MaxAttestation+1)}}, ErrTooLarge},
		{"attestation, not UTF-8", Attestation{AgentID: id, FailureReason: "\xff"}, ErrInvalid},
		{"attestation, beyond the last year", Attestation{AgentID: id, BootTime: time.Date(10000, 1, 1, 0, 0, 0, 0, time.UTC)}, ErrInvalid},
		{"payload", Payload{AgentID: id, Data: make([]byte, MaxPayload)}, nil},
		{"payload of nobody", Payload{}, ErrInvalid},
		{"payload, all together", Payload{AgentID: id, SealedU: []byte{0}, Data: make([]byte, MaxPayload)}, ErrTooLarge},
		{"payload, not UTF-8", Payload{AgentID: id, Tag: "\xff"}, ErrInvalid},
		{"session", Session{ID: "s", AgentID: id, TokenHash: big[:MaxSecret]}, nil},
		{"session without id", Session{AgentID: id}, ErrInvalid},
		{"session of nobody", Session{ID: "s"}, ErrInvalid},
		{"session, its id", Session{ID: strings.Repeat("s", MaxName+1), AgentID: id}, ErrTooLarge},
		{"session, its token", Session{ID: "s", AgentID: id, TokenHash: big}, ErrTooLarge},
		{"offer", Offer{ID: "s", AgentID: id, Nonce: big[:MaxSecret]}, nil},
		{"offer without id", Offer{AgentID: id}, ErrInvalid},
		{"offer to nobody", Offer{ID: "s"}, ErrInvalid},
		{"offer, its nonce", Offer{ID: "s", AgentID: id, Nonce: big}, ErrTooLarge},
	} {
		if err := c.record.Check(); !errors.Is(err, c.want) {
			t.Errorf("%s: error is %v, want %v", c.name, err, c.want)
		}
	}
	a := Attestation{AgentID: "not looked at: the round is of another", Context: "\xff"}
	if err := (Round{Attestation: &a}).Check(id); !errors.Is(err, ErrInvalid) {
		t.Errorf("round with an attestation: error is %v, want %v", err, ErrInvalid)
	}
}

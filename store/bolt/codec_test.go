package bolt

import (
	"bytes"
	"errors"
	"flag"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"keylime/internal/attest"
	"keylime/store"
	"keylime/tpm"
)

var update = flag.Bool("update", false, "write the golden records anew")

// kind is a kind of record, and one of it with something in every field.
type kind struct {
	name   string
	value  any
	encode func() []byte
	decode func(record []byte) (any, error)
}

func jsonKind[T any](name string, value T) kind {
	return kind{name, value, func() []byte { return encodeRecord(value) }, func(record []byte) (any, error) {
		var v T
		err := decodeRecord(record, &v)
		return v, err
	}}
}

func kinds() []kind {
	when := time.Date(2026, 2, 3, 4, 5, 6, 789_012_000, time.UTC)
	last := &round{
		status: store.AgentStatus{
			Operational: store.StateGetQuote, APIVersion: "2.6", ProvideV: true, PubKey: "-----BEGIN PUBLIC KEY-----\n",
			HashAlg: "sha256", EncAlg: "rsa2048", SignAlg: "rsassa", Retries: 2, AttestationCount: 12345, LastQuote: when,
			LastSuccess: when, SeverityRank: -1, LastEventID: "ima.validation", LastFailure: `{"message":"<&>"}`,
			RuntimePolicyDigest: "0a", MeasuredBootPolicyDigest: "0b", Run: "run-1",
		},
		state: attest.State{Attested: true, Clock: tpm.Clock{Clock: 1, ResetCount: 2, RestartCount: 3, Safe: true},
			Bank: tpm.SHA256, NextEntry: 7, PCR10: bytes.Repeat([]byte{0xab}, 32)},
		due: when,
		rev: 42,
	}
	judged := store.Attestation{
		Stage: store.VerificationComplete, Evaluation: store.EvaluationPass, FailureReason: "policy_violation", EventID: "ima.validation",
		Context: `{"message":"<&>"}`, BootTime: when.Add(-time.Hour), Received: when, Expires: when.Add(time.Minute), Evidence: when,
		Completed: when, Extensions: []string{"payload"}, NoticeSeen: 7, Items: []store.EvidenceItem{
			{Class: "certification", Type: "tpm_quote", Capabilities: []byte(`{"a": 1}`), Chosen: []byte(`{}`), Data: []byte{0, 0xff}},
			{Class: "log", Type: "ima_log", Capabilities: []byte{}},
		},
	}
	row := historyRow{Kept: store.Kept{Evaluation: store.EvaluationPass, BootTime: judged.BootTime, Received: when}}
	return []kind{
		jsonKind("registration", store.Registration{
			ID: "d432fbb3-d2f1-4a97-9ef7-75bd81c00000",
			Identity: store.Identity{EKTPM: []byte("ek"), AIKTPM: []byte("ak"), EKCert: []byte{0x30, 0}, EKChain: [][]byte{{1}, {}, nil},
				IAKTPM: []byte{}, IDevIDTPM: nil, IAKCert: []byte{2}, IDevIDCert: []byte{3}},
			IP: "192.0.2.1", Port: 9002, MTLSCert: "disabled", Challenge: "secret", RegCount: 3, Rev: 9, Staged: when, Activated: when,
		}),
		jsonKind("agent", store.AgentSpec{
			VerifierID: "default", VerifierIP: "127.0.0.1", VerifierPort: 8881, V: []byte{0, 0xff}, IP: "192.0.2.1", Port: 9002,
			TPMPolicy: `{"mask":"0x400"}`, Metadata: "{}", RuntimePolicy: "p", MeasuredBootPolicy: "m", IMAKeyring: "k",
			RevocationKey: "r", AcceptHash: []string{"sha256"}, AcceptEnc: []string{}, AcceptSign: nil, AKTPM: []byte("ak"),
			MTLSCert: "-----BEGIN CERTIFICATE-----\n", Enrolled: when,
		}),
		jsonKind("policy", policyHead{Digest: "0a", Generator: 1, Rev: 2, NilText: true}),
		jsonKind("event", store.Event{ID: 1, AgentID: "a", Channel: "agent", Target: "b", Message: []byte(`{"type":"revocation"}`),
			Created: when, Due: when, Attempts: 4}),
		jsonKind("session", store.Session{ID: "6c3cbd5b-1d42-4d0e-9d4c-3d4d3a3a0000", AgentID: "a", TokenHash: []byte{0, 0xff}, Expires: when}),
		jsonKind("payload", store.Payload{AgentID: "a", Rev: 3, SealedU: []byte{0, 0xff}, Tag: "0a"}),
		{"attestation", judged, func() []byte { return encodeAttestation(judged).record }, func(record []byte) (any, error) { return unsealAttestation(record) }},
		{"attestation-history", row, func() []byte { return encodeAttestation(judged).history }, func(record []byte) (any, error) { return decodeHistory(record) }},
		{"round", last, func() []byte { return encodeRound(last) }, func(record []byte) (any, error) { return decodeRound(record) }},
	}
}

// golden is the record of a kind as this release writes it. A round holds an attest.State, which has a version of its own.
func golden(k kind) string {
	if k.name == "round" {
		return filepath.Join("testdata", "round.v1-state2")
	}
	return filepath.Join("testdata", k.name+".v1")
}

// Rounds with the first version of the state, from earlier releases.
func TestOldRoundsDecode(t *testing.T) {
	t.Parallel()
	record, err := os.ReadFile(filepath.Join("testdata", "round.v1"))
	if err != nil {
		t.Fatal(err)
	}
	for _, k := range kinds() {
		if k.name != "round" {
			continue
		}
		got, err := k.decode(record)
		if diff := cmp.Diff(k.value, got, cmp.AllowUnexported(round{}, historyRow{})); diff != "" || err != nil {
			t.Errorf("%v (-want +got):\n%s", err, diff)
		}
	}
}

// TestGoldenRecords holds the format of the file. When a record's bytes change, files of released versions must still
// be read: that takes a new record version, or a migration, and a new golden record beside the old one.
func TestGoldenRecords(t *testing.T) {
	t.Parallel()
	for _, k := range kinds() {
		if *update {
			if err := os.WriteFile(golden(k), k.encode(), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		record, err := os.ReadFile(golden(k))
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(k.encode(), record) {
			t.Errorf("%s is encoded as %q, the golden record is %q", k.name, k.encode(), record)
		}
		got, err := k.decode(record)
		if err != nil {
			t.Errorf("%s: %v", k.name, err)
		}
		if diff := cmp.Diff(k.value, got, cmp.AllowUnexported(round{}, historyRow{})); diff != "" {
			t.Errorf("%s (-want +got):\n%s", k.name, diff)
		}
	}
}

// No byte of a record can change unnoticed.
func TestEveryFlippedBitIsNoticed(t *testing.T) {
	t.Parallel()
	for _, k := range kinds() {
		for i := range k.encode() {
			for bit := range 8 {
				record := k.encode()
				record[i] ^= 1 << bit
				if _, err := k.decode(record); !errors.Is(err, store.ErrDamaged) {
					t.Fatalf("%s: bit %d of byte %d flipped: error is %v, want %v", k.name, bit, i, err, store.ErrDamaged)
				}
			}
		}
	}
}

// FuzzRecord: whatever a record's body holds, it is decoded to something that is encoded to an equal record, or is damaged.
func FuzzRecord(f *testing.F) {
	for _, k := range kinds() {
		body, err := unseal(k.encode())
		if err != nil {
			f.Fatal(err)
		}
		f.Add(body)
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		for _, k := range kinds() {
			if _, err := k.decode(seal(body)); err != nil && !errors.Is(err, store.ErrDamaged) {
				t.Errorf("%s: error is %v, want %v", k.name, err, store.ErrDamaged)
			}
		}
		r, err := decodeRound(seal(body))
		if err != nil {
			return
		}
		again, err := decodeRound(encodeRound(r))
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(r, again, cmp.AllowUnexported(round{}, historyRow{})); diff != "" {
			t.Errorf("round changed (-before +after):\n%s", diff)
		}
	})
}

func TestKeysSortAsTimes(t *testing.T) {
	t.Parallel()
	times := []time.Time{{}, time.Unix(-1, 0), time.Unix(0, 0), time.Unix(0, 1000), now, now.AddDate(1000, 0, 0)}
	for i := 1; i < len(times); i++ {
		if bytes.Compare(timeKey(times[i-1]), timeKey(times[i])) >= 0 {
			t.Errorf("key of %v is not before that of %v", times[i-1], times[i])
		}
	}
}

package verifier

import (
	"bytes"
	"encoding/json"
	"strings"
	"testing"

	"keylime/internal/api"
	"keylime/internal/attest"
	"keylime/internal/jsonapi"
	"keylime/tpm"
)

// askedOf are the items that everything is asked for with.
func askedOf(t testing.TB, a *callingAgent) ([]asked, []api.EvidenceItem) {
	t.Helper()
	given, problems := parseCapabilities(genuineOffer(a.tpm, a.list.Len()).text(t))
	if problems != nil {
		t.Fatal(problems)
	}
	items, problems := negotiate(given, genuineTerms(a.tpm))
	if problems != nil {
		t.Fatal(problems)
	}
	list, err := readAsked(items)
	if err != nil {
		t.Fatal(err)
	}
	var requested []api.EvidenceItem
	for _, i := range items {
		requested = append(requested, api.EvidenceItem{Class: i.Class, Type: i.Type, Chosen: i.Chosen})
	}
	return list, requested
}

// bootedCaller is an attester with a boot log, that talks to nobody.
func bootedCaller(t testing.TB) *callingAgent {
	t.Helper()
	a := &callingAgent{id: "a1", tpm: softTPM(t, "ecc256")}
	a.boots(t, "1")
	return a
}

func TestEvidenceIsReadAsItCame(t *testing.T) {
	t.Parallel()
	a := bootedCaller(t)
	items, requested := askedOf(t, a)
	sent, err := jsonapi.Parse(string(a.evidence(t, requested, nil)))
	if err != nil {
		t.Fatal(err)
	}
	c, problems := parseEvidence(sent.Attributes, items)
	if problems != nil {
		t.Fatal(problems)
	}
	all, _ := a.list.From(0)
	if !bytes.Equal(c.ima, all) || !c.hasIMA {
		t.Errorf("measurement list is %q, want %q", c.ima, all)
	}
	ak, _ := tpm.ParsePublic(a.tpm.AKPublic())
	e, problem := c.evidenceFor(items, ak)
	if problem != nil || !bytes.Equal(e.BootLog, a.boot.Bytes()) || e.HashAlg != "sha256" || e.SignAlg != "ecdsa" || e.EncAlg != "ecc256" {
		t.Errorf("evidence %s %s %s, %v", e.HashAlg, e.SignAlg, e.EncAlg, problem)
	}
	ch, err := c.challengeFor(items)
	if err != nil || string(ch.Nonce) != "sixteen bytes..." || ch.Mask != tpm.MaskOf(0, 4, 10) || ch.BindData {
		t.Errorf("challenge %+v, %v", ch, err)
	}
	var log api.LogData
	if err := json.Unmarshal(c.data[2], &log); err != nil || *log.Entries != string(all) || *log.EntryCount != uint64(a.list.Len()) {
		t.Errorf("shown as %s", c.data[2])
	}
}

// A list without a line is shown as null, and an undecodable boot log fails like that of a polled agent.
func TestLogsThatAreNone(t *testing.T) {
	t.Parallel()
	a := bootedCaller(t)
	items, requested := askedOf(t, a)
	items[2].reported = nil
	sent, err := jsonapi.Parse(string(a.evidence(t, requested, func(kind string, data map[string]any) {
		switch kind {
		case api.EvidenceIMA:
			data["entries"] = ""
		case api.EvidenceBootLog:
			data["entries"] = "?"
		}
	})))
	if err != nil {
		t.Fatal(err)
	}
	c, problems := parseEvidence(sent.Attributes, items)
	if problems != nil || string(c.data[2]) != `{"entry_count":0,"entries":null}` {
		t.Errorf("shown as %s, %v", c.data[2], problems)
	}
	ak, _ := tpm.ParsePublic(a.tpm.AKPublic())
	if _, problem := c.evidenceFor(items, ak); problem == nil || problem.eventID != attest.EventBootBase64 {
		t.Errorf("problem %v", problem)
	}
}

func TestFailureReasons(t *testing.T) {
	t.Parallel()
	for events, want := range map[string]string{
		"qoute_validation.quote_validation":                         "broken_evidence_chain",
		"ima.pcr_mismatch":                                          "broken_evidence_chain",
		"measured_boot.invalid_pcr_4":                               "broken_evidence_chain",
		"ima.validation.ima-ng.not_in_allowlist ima.pcr_mismatch":   "broken_evidence_chain",
		"ima.validation.ima-ng.not_in_allowlist":                    "policy_violation",
		"measured_boot.policy_example pcr_validation.invalid_pcr_4": "policy_violation",
		"qoute_validation.invalid_hash_alg":                         "policy_violation",
		"":                                                          "policy_violation",
	} {
		var failures []attest.Failure
		for _, id := range strings.Fields(events) {
			failures = append(failures, attest.Failure{EventID: id})
		}
		if got := failureReason(failures); got != want {
			t.Errorf("%q: %s, want %s", events, got, want)
		}
	}
}

// Whatever comes as evidence: it is refused with reasons, or can be put before the core and shown as JSON.
func FuzzEvidence(f *testing.F) {
	a := bootedCaller(f)
	items, requested := askedOf(f, a)
	ak, err := tpm.ParsePublic(a.tpm.AKPublic())
	if err != nil {
		f.Fatal(err)
	}
	f.Add(a.evidence(f, requested, nil))
	f.Add([]byte(`{"data":{"type":"attestation","attributes":{"evidence_collected":[{"evidence_class":"log","evidence_type":"ima_log","data":{"entries":"\ud83d\ude00"}},null,7]}}}`))
	f.Add([]byte(`{"data":{"type":"attestation","attributes":{"evidence_collected":null}}}`))
	f.Fuzz(func(t *testing.T, body []byte) {
		sent, err := jsonapi.Parse(string(body))
		if err != nil || sent.Attributes == "" {
			return
		}
		c, problems := parseEvidence(sent.Attributes, items)
		if problems != nil {
			return
		}
		if _, err := c.challengeFor(items); err != nil {
			t.Fatal(err)
		}
		_, _ = c.evidenceFor(items, ak)
		for i, d := range c.data {
			if !json.Valid(d) {
				t.Fatalf("item %d is shown as %s", i, d)
			}
		}
	})
}

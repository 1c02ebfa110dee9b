package notify_test

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"strings"
	"testing"
	"time"

	"keylime/internal/api"
	"keylime/internal/notify"
	"keylime/internal/recorded"
)

func sample() api.Revocation {
	return api.Revocation{
		Type: notify.TypeRevocation, IP: new("192.0.2.7"), AgentID: "a1", Port: new(9002),
		TPMPolicy: `{"mask": "0x400"}`, Metadata: `{"subject": "CN=<a&b>"}`,
		EventTime: notify.EventTime(time.Date(2027, 11, 3, 1, 2, 3, 0, time.UTC)),
		EventID:   "ima.pcr_mismatch", Severity: "emergency", Context: `{"message": "x"}`,
		EventUUID: "7d", Expires: 1, Audience: "agents of verifier default",
	}
}

func TestEventTimeIsAsctime(t *testing.T) {
	t.Parallel()
	if got := sample().EventTime; got != "Wed Nov  3 01:02:03 2027" {
		t.Errorf("event time %q: want the day padded with a space", got)
	}
}

func TestMessageKeepsTheOrderOfItsKeys(t *testing.T) {
	t.Parallel()
	body, err := notify.Encode(rand.Reader, sample(), nil)
	if err != nil {
		t.Fatal(err)
	}
	var n api.Notification
	if err := json.Unmarshal(body, &n); err != nil {
		t.Fatal(err)
	}
	if n.Signature != "" {
		t.Errorf("without a key the signature is %q, want empty", n.Signature)
	}
	want := []string{"type", "ip", "agent_id", "port", "tpm_policy", "meta_data", "event_time", "event_id",
		"severity_label", "context", "event_uuid", "expires", "audience"}
	if got := keys(t, n.Msg); strings.Join(got, " ") != strings.Join(want, " ") {
		t.Errorf("keys %v, want %v", got, want)
	}
	if !strings.Contains(n.Msg, "CN=<a&b>") {
		t.Errorf("text was changed on its way: %s", n.Msg)
	}
}

func TestMessageWithoutEventHasNoEventKeys(t *testing.T) {
	t.Parallel()
	r := sample()
	r.EventID, r.Severity, r.Context = "", "", ""
	body, err := notify.Encode(rand.Reader, r, nil)
	if err != nil {
		t.Fatal(err)
	}
	for _, key := range []string{"event_id", "severity_label", "context"} {
		if strings.Contains(string(body), `\"`+key+`\"`) {
			t.Errorf("%s is present: %s", key, body)
		}
	}
}

func TestSignatureHasTheLargestSalt(t *testing.T) {
	t.Parallel()
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	body, err := notify.Encode(rand.Reader, sample(), key)
	if err != nil {
		t.Fatal(err)
	}
	var n api.Notification
	if err := json.Unmarshal(body, &n); err != nil {
		t.Fatal(err)
	}
	sig, err := base64.StdEncoding.DecodeString(n.Signature)
	if err != nil {
		t.Fatal(err)
	}
	digest := sha256.Sum256([]byte(n.Msg))
	opts := &rsa.PSSOptions{SaltLength: key.Size() - sha256.Size - 2, Hash: crypto.SHA256}
	if err := rsa.VerifyPSS(&key.PublicKey, crypto.SHA256, digest[:], sig, opts); err != nil {
		t.Errorf("a receiver that wants a salt of %d bytes refuses: %v", opts.SaltLength, err)
	}
}

func TestOnlyRSASigns(t *testing.T) {
	t.Parallel()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := notify.Encode(rand.Reader, sample(), key); err == nil || !strings.Contains(err.Error(), "RSA") {
		t.Errorf("an EC key: error %v, want one that says RSA", err)
	}
}

// The recorded message of a verifier of upstream must be what we would have sent about the same event.
func TestMessageEqualsTheRecordedOne(t *testing.T) {
	t.Parallel()
	raw := recorded.File(t, "wire/cert/023-verifier-POST-revoked.json")
	var exchange struct {
		Request struct {
			Headers [][2]string
			JSON    api.Notification
		}
	}
	if err := json.Unmarshal(raw, &exchange); err != nil {
		t.Fatal(err)
	}
	var r api.Revocation
	d := json.NewDecoder(strings.NewReader(exchange.Request.JSON.Msg))
	d.DisallowUnknownFields()
	if err := d.Decode(&r); err != nil {
		t.Fatal("the recorded message has what ours has not: ", err)
	}
	at, err := time.Parse("Mon Jan _2 15:04:05 2006", r.EventTime)
	if err != nil || notify.EventTime(at) != r.EventTime {
		t.Errorf("event time %q does not survive: %q, %v", r.EventTime, notify.EventTime(at), err)
	}
	body, err := notify.Encode(rand.Reader, r, nil)
	if err != nil {
		t.Fatal(err)
	}
	var ours api.Notification
	if err := json.Unmarshal(body, &ours); err != nil {
		t.Fatal(err)
	}
	if got, want := keys(t, ours.Msg), keys(t, exchange.Request.JSON.Msg); strings.Join(got, " ") != strings.Join(want, " ") {
		t.Errorf("keys %v, recorded %v", got, want)
	}
	var got, want map[string]any
	_ = json.Unmarshal([]byte(ours.Msg), &got)
	_ = json.Unmarshal([]byte(exchange.Request.JSON.Msg), &want)
	for k, v := range want {
		if got[k] != v {
			t.Errorf("%s: %v, recorded %v", k, got[k], v)
		}
	}
}

// keys lists the keys of a JSON object in their order.
func keys(t *testing.T, text string) []string {
	t.Helper()
	d := json.NewDecoder(strings.NewReader(text))
	var list []string
	if _, err := d.Token(); err != nil {
		t.Fatal(err)
	}
	for d.More() {
		k, err := d.Token()
		if err != nil {
			t.Fatal(err)
		}
		list = append(list, k.(string))
		var skip json.RawMessage
		if err := d.Decode(&skip); err != nil {
			t.Fatal(err)
		}
	}
	return list
}

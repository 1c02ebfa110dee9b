package verifier

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"keylime/internal/api"
	"keylime/internal/policy"
	"keylime/internal/recorded"
)

// Lives of agents that called in were recorded between Keylime's Python verifier and its Rust push agent. The agent's
// requests are sent again; our challenges are those recorded, so that its quotes verify. Our answers must be those of the
// Python verifier, and our decisions its decisions.

const recordedID = "d432fbb3-d2f1-4a97-9ef7-75bd81c00000"

// pushDiffers are the places where our answers may differ from those recorded, and why.
var pushDiffers = map[string]string{
	"data.attributes.capabilities_received_at": "the time of the request",
	"data.attributes.challenges_expire_at":     "follows from it",
	"data.attributes.evidence_received_at":     "the time of the request",
	"data.links.self":                          "ours is the address of the attestation in every answer",
}

// recordedCaller plays a recorded agent.
type recordedCaller struct {
	t       *testing.T
	v       *testVerifier
	agent   callingAgent
	life    string
	next    uint64          // index of the next attestation
	entries [][]byte        // lines of the measurement list seen so far
	offer   json.RawMessage // the last capabilities
}

func TestRecordedPushLives(t *testing.T) {
	t.Parallel()
	recorded.Dir(t)
	for _, life := range []string{"push", "mbpush"} {
		t.Run(life, func(t *testing.T) { t.Parallel(); callAgain(t, life, policy.BootAcceptAll) })
	}
	// The reference state was made of that machine's boot.
	t.Run("mbpush, example", func(t *testing.T) { t.Parallel(); callAgain(t, "mbpush", policy.BootExample) })
}

func callAgain(t *testing.T, life, bootEngine string) {
	cfg := fastConfig(t)
	cfg.MeasuredBootEngine = bootEngine
	cfg.QuoteInterval = 2 * time.Second
	v := newVerifier(t, cfg, openStore(t))
	base, admin := v.serve(t)
	read := func(name string) recorded.Exchange { return recorded.Glob(t, "wire/"+life+"/"+name+"-*.json")[0] }

	replay(t, base, admin, read("010"), nil)
	compareStatus(t, replay(t, base, admin, read("011"), nil), read("011"), nil)
	c := &recordedCaller{t: t, v: v, life: life, agent: callingAgent{id: recordedID, base: base, client: clientWith(t)}}
	c.agent.lend(t, v)

	for _, pair := range [][2]string{{"012", "013"}, {"014", "015"}, {"016", "017"}, {"018", "019"}} {
		c.opens(read(pair[0]), read(pair[1]))
		c.delivers(read(pair[1]), nil)
	}
	times := map[string]bool{"last_received_quote": true, "last_successful_attestation": true}
	ours := map[string]bool{"hash_alg": true, "enc_alg": true, "sign_alg": true} // shown as for polled agents
	maps.Copy(ours, times)
	compareStatus(t, replay(t, base, admin, read("022"), nil), read("022"), ours)

	c.reopens(read("025"))
	c.delivers(read("025"), nil)
	c.reopens(read("026"))
	c.delivers(read("026"), nil)
	v.wantRecordedFailure(t, indexIn(read("026")))

	// After a failure all of the measurement list is asked for; the recorded verifier asked for the new entries only.
	for _, name := range []string{"027", "028", "029", "030", "031"} {
		e := read(name)
		c.reopens(e)
		if r := c.send(e.Request.Path, []byte(e.Request.Body)); r.status != 422 {
			t.Errorf("%s: the end of the list in place of all: %v", e.Name, r)
		}
		c.delivers(e, c.wholeList)
		v.wantRecordedFailure(t, indexIn(e))
	}
	for _, field := range []string{"attestation_count", "last_event_id", "severity_level"} { // not all was recorded; ours says what failed
		ours[field] = true
	}
	failed := replay(t, base, admin, read("032"), nil)
	compareStatus(t, failed, read("032"), ours)
	if n := failed["attestation_count"]; n != 5.0 { // of those whose evidence was recorded
		t.Errorf("%v good attestations", n)
	}
	replay(t, base, admin, read("033"), nil)
	// The session went with the agent; the recorded one outlived it, and its request was answered 404.
	if r := c.send(c.agent.attestations(), []byte(read("034").Request.Body)); r.status != 401 {
		t.Errorf("after the deletion: %v", r)
	}
	replay(t, base, admin, read("035"), nil)
}

// wantRecordedFailure wants an attestation to have failed for the file that was tampered with.
func (tv *testVerifier) wantRecordedFailure(t *testing.T, index uint64) {
	t.Helper()
	at, err := tv.store.Attestation(t.Context(), recordedID, index)
	if err != nil || at.Evaluation != "fail" || !strings.HasPrefix(at.EventID, "ima.validation.ima-ng.") || at.FailureReason != "policy_violation" {
		t.Errorf("attestation %d: %s, %s, %s, %v", index, at.Evaluation, at.EventID, at.FailureReason, err)
	}
}

// send sends a recorded body with our token.
func (c *recordedCaller) send(path string, body []byte) response {
	method := http.MethodPatch
	if strings.HasSuffix(path, "/attestations") {
		method = http.MethodPost
	}
	return c.agent.call(c.t, method, path, strings.NewReader(string(body)))
}

// opens sends recorded capabilities. The challenge is the one that the evidence was made for.
func (c *recordedCaller) opens(e, evidence recorded.Exchange) {
	c.t.Helper()
	c.v.calls.pacing.interval = 0 // the agent need not wait for us
	c.challenge(evidence)
	r := c.send(e.Request.Path, []byte(e.Request.Body))
	if r.status != e.Response.Status || r.location != header(e, "Location") {
		c.t.Fatalf("%s: answered %v at %s", e.Name, r, r.location)
	}
	c.compare(e, r, pushDiffers)
	c.next++
	var doc struct {
		Data struct{ Attributes json.RawMessage }
	}
	if err := json.Unmarshal([]byte(e.Request.Body), &doc); err != nil {
		c.t.Fatal(err)
	}
	c.offer = doc.Data.Attributes
}

// challenge has the verifier give the challenge that recorded evidence answers.
func (c *recordedCaller) challenge(evidence recorded.Exchange) {
	var q api.QuoteParameters
	if err := json.Unmarshal(recordedItems(c.t, evidence)[0].Chosen, &q); err != nil {
		c.t.Fatal(err)
	}
	nonce, err := base64.StdEncoding.DecodeString(q.Challenge)
	if err != nil {
		c.t.Fatal(err)
	}
	c.v.calls.challenge = func() ([]byte, error) { return nonce, nil }
}

// recordedItems are those of the answer to recorded evidence.
func recordedItems(t *testing.T, e recorded.Exchange) []api.EvidenceItem {
	t.Helper()
	var doc api.Document[api.Attestation]
	if err := json.Unmarshal([]byte(e.Response.Body), &doc); err != nil {
		t.Fatal(err)
	}
	return doc.Data.Attributes.Evidence
}

// indexIn is the attestation that a recorded request is about.
func indexIn(e recorded.Exchange) uint64 {
	index, err := strconv.ParseUint(e.Request.Path[strings.LastIndex(e.Request.Path, "/")+1:], 10, 64)
	if err != nil {
		panic(err)
	}
	return index
}

// reopens opens the attestation of recorded evidence, and those before it, whose requests were not recorded, with the capabilities that its answer shows.
func (c *recordedCaller) reopens(evidence recorded.Exchange) {
	c.t.Helper()
	index := indexIn(evidence)
	c.v.calls.pacing.interval = 0
	c.challenge(evidence)
	var o offer
	if err := json.Unmarshal(c.offer, &o); err != nil {
		c.t.Fatal(err)
	}
	for _, item := range recordedItems(c.t, evidence) {
		for _, supported := range o["evidence_supported"].([]any) {
			if s := supported.(map[string]any); s["evidence_type"] == item.Type {
				s["capabilities"] = item.Capabilities
			}
		}
	}
	for ; c.next <= index; c.next++ {
		r := c.send(c.agent.attestations(), resourceOf(c.t, "attestation", o))
		if want := fmt.Sprint(c.agent.attestations(), "/", c.next); r.status != 201 || r.location != want {
			c.t.Fatalf("opening attestation %d: %v at %s", c.next, r, r.location)
		}
	}
}

// delivers sends recorded evidence, changed by change if any.
func (c *recordedCaller) delivers(e recorded.Exchange, change func(body []byte) []byte) {
	c.t.Helper()
	c.v.calls.pacing.interval = 2 * time.Second
	c.remember(e)
	body, differs := []byte(e.Request.Body), maps.Clone(pushDiffers)
	if change != nil {
		body = change(body)
		last := len(recordedItems(c.t, e)) - 1
		for _, part := range []string{"chosen_parameters.starting_offset", "data.entries", "data.entry_count"} {
			differs[fmt.Sprintf("data.attributes.evidence.%d.%s", last, part)] = "all of the list is asked for after a failure"
		}
	}
	r := c.send(e.Request.Path, body)
	if r.status != e.Response.Status {
		c.t.Fatalf("%s: answered %v\n%s", e.Name, r, c.v.log)
	}
	c.compare(e, r, differs)
}

// remember notes the lines of the measurement list that recorded evidence has.
func (c *recordedCaller) remember(e recorded.Exchange) {
	items := recordedItems(c.t, e)
	item := items[len(items)-1]
	var p api.LogParameters
	var d api.LogData
	if json.Unmarshal(item.Chosen, &p) != nil || json.Unmarshal(item.Data, &d) != nil {
		c.t.Fatal(e.Name)
	}
	if d.Entries != nil {
		c.entries = c.entries[:*p.Offset]
		for line := range strings.Lines(*d.Entries) {
			c.entries = append(c.entries, []byte(line))
		}
	}
}

// wholeList puts all of the measurement list into recorded evidence.
func (c *recordedCaller) wholeList(body []byte) []byte {
	var o struct {
		Data struct {
			Type       string `json:"type"`
			Attributes offer  `json:"attributes"`
		} `json:"data"`
	}
	if err := json.Unmarshal(body, &o); err != nil {
		c.t.Fatal(err)
	}
	list := o.Data.Attributes["evidence_collected"].([]any)
	data := list[len(list)-1].(map[string]any)["data"].(map[string]any)
	data["entries"] = string(slices.Concat(c.entries...))
	return encode(c.t, o)
}

// compare holds an answer to the one recorded, member by member.
func (c *recordedCaller) compare(e recorded.Exchange, r response, differs map[string]string) {
	c.t.Helper()
	var got, want any
	if err := json.Unmarshal(r.body, &got); err != nil {
		c.t.Fatalf("%s: %v: %v", e.Name, r, err)
	}
	if err := json.Unmarshal([]byte(e.Response.Body), &want); err != nil {
		c.t.Fatal(err)
	}
	compareTree(got, want, "", func(path string, got, want any) {
		if differs[path] == "" {
			c.t.Errorf("%s: %s is %.200v, recorded %.200v", e.Name, path, got, want)
		}
	})
}

// compareTree calls differs with the path of every value that is not the same.
func compareTree(got, want any, path string, differs func(path string, got, want any)) {
	below := func(name string) string { return strings.TrimPrefix(path+"."+name, ".") }
	g, w := reflect.ValueOf(got), reflect.ValueOf(want)
	switch {
	case g.IsValid() && w.IsValid() && g.Kind() == reflect.Map && w.Kind() == reflect.Map:
		a, b := got.(map[string]any), want.(map[string]any)
		names := maps.Clone(a)
		maps.Copy(names, b)
		for _, name := range slices.Sorted(maps.Keys(names)) {
			x, inGot := a[name]
			y, inWant := b[name]
			if inGot != inWant {
				differs(below(name), x, y)
				continue
			}
			compareTree(x, y, below(name), differs)
		}
	case g.IsValid() && w.IsValid() && g.Kind() == reflect.Slice && w.Kind() == reflect.Slice && g.Len() == w.Len():
		a, b := got.([]any), want.([]any)
		for i := range a {
			compareTree(a[i], b[i], below(fmt.Sprint(i)), differs)
		}
	case !reflect.DeepEqual(got, want):
		differs(path, got, want)
	}
}

func header(e recorded.Exchange, name string) string {
	for _, h := range e.Response.Headers {
		if strings.EqualFold(h[0], name) {
			return h[1]
		}
	}
	return ""
}

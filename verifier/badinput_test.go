package verifier

import (
	"encoding/base64"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"keylime/internal/api"
	"keylime/store"
)

// NT-37, NT-41, NT-91: each upload is refused with its place, by every route that takes a runtime policy, and leaves
// nothing. Agents are attested meanwhile as if nothing happened.
func TestBadPoliciesNameThePlace(t *testing.T) {
	t.Parallel()
	agent := startAgent(t, "a1")
	v := startVerifier(t, fastConfig(t), openStore(t))
	v.add(t, agent, agent.enrolment(agent.runtimePolicy()))
	v.passes(t, "a1", 1)
	base, admin := v.serve(t)
	good := agent.runtimePolicy("/usr/bin/x")
	if err := v.addRuntimePolicy(t.Context(), "present", upload(good)); err != nil {
		t.Fatal(err)
	}
	with := func(part, replacement string) string {
		if !strings.Contains(good, part) {
			t.Fatalf("no %s in %s", part, good)
		}
		return strings.Replace(good, part, replacement, 1)
	}
	digest := fmt.Sprintf("%x", fileDigest("/usr/bin/x"))
	for _, c := range []struct{ name, text, place string }{
		{"nested 100,000 deep", with(`"release":0`, `"release":0,"x":`+strings.Repeat("[", 100_000)+strings.Repeat("]", 100_000)), "Runtime policy is not valid JSON! byte "},
		{"objects nested 100,000 deep", with(`"release":0`, `"x":`+strings.Repeat(`{"x":`, 100_000)+"1"+strings.Repeat("}", 100_000)), "Runtime policy is not valid JSON! byte "},
		{"a path twice", with(`"/usr/bin/x":`, `"/usr/bin/x":["`+digest+`"],"/usr/bin/x":`), `name "/usr/bin/x" stands twice in one object`},
		{"a path twice, once with escapes", with(`"/usr/bin/x":`, `"\u002fusr/bin/x":["`+digest+`"],"/usr/bin/x":`), `name "/usr/bin/x" stands twice in one object`},
		{"bad UTF-8", with("/usr/bin/x", "/usr/bin/\xff"), "byte "},
		{"a lone surrogate", with("/usr/bin/x", `/usr/bin/\ud800`), "Runtime policy is not valid JSON! byte "},
		{"a bad pattern", with(`"/tmp/.*"`, `"/tmp/.*","/var/(log"`), "/var/(log"},
		{"look-ahead", with(`"/tmp/.*"`, `"(?=/tmp)"`), "(?=/tmp)"},
		{"a short digest", with(digest, digest[:39]), "'/usr/bin/x' of digests"},
		{"a long digest", with(digest, digest+digest+"0"), "'/usr/bin/x' of digests"},
		{"upper-case digits", with(digest, strings.ToUpper(digest)), "'/usr/bin/x' of digests"},
		{"a number too large", with(`"release":0`, `"release":1e999`), "1e999"},
		{"null for an object", with(`"keyrings":{}`, `"keyrings":null`), "None is not of type 'object'"},
		{"text after it", good + "{}", "Runtime policy is not valid JSON! byte "},
		{"an envelope's payload", `{"payload":"e3","payloadType":"application/vnd.keylime+json","signatures":[{"sig":"AAAA"}]}`, "payload: "},
	} {
		encoded := base64.StdEncoding.EncodeToString([]byte(c.text))
		enrolment := agent.enrolment("")
		enrolment.RuntimePolicy = &encoded
		for _, r := range []struct{ method, path, body string }{
			{"POST", "allowlists/new", string(upload(c.text))},
			{"PUT", "allowlists/present", string(upload(c.text))},
			{"PUT", "allowlists/present/stage", string(stageBody(t, c.text, 60))},
			{"POST", "allowlists/present/check", string(encode(t, checkBody(c.text)))},
			{"POST", "agents/a2", string(encode(t, enrolment))},
		} {
			status, answer := request(t, admin, r.method, base+"/v2.6/"+r.path, r.body)
			if status != 400 || !strings.Contains(statusText(answer), c.place) || len(answer) > 4096 {
				t.Errorf("%s: %s %s answered %d %.300s, want 400 with %q", c.name, r.method, r.path, status, answer, c.place)
			}
		}
	}
	names, err := v.store.PolicyNames(t.Context(), store.RuntimePolicy)
	if err != nil || strings.Join(names, " ") != "a1 present" {
		t.Errorf("policies %v, %v", names, err)
	}
	if p, err := v.store.Policy(t.Context(), store.RuntimePolicy, "present"); err != nil || string(p.Text) != good || p.Previous != nil {
		t.Errorf("the present policy was changed: %v", err)
	}
	if st := v.passes(t, "a1", 2); st.AttestationStatus != "PASS" {
		t.Errorf("status %s", encode(t, st))
	}
}

// endless is an upload.
type endless struct{}

func (endless) Read(b []byte) (int, error) {
	for i := range b {
		b[i] = '0'
	}
	return len(b), nil
}

// NT-41: a body beyond max_upload_size is refused however it is sent, and long before it is read.
func TestTooLargeUploads(t *testing.T) {
	t.Parallel()
	v := newVerifier(t, fastConfig(t), openStore(t))
	base, admin := v.serve(t)
	for announced, paths := range map[bool][]string{
		true:  {"allowlists/p", "allowlists/p/check", "pcrpolicies/p", "mbpolicies/p"},
		false: {"allowlists/p"},
	} {
		for _, path := range paths {
			body := io.MultiReader(strings.NewReader(`{"runtime_policy":"`), io.LimitReader(endless{}, 100<<20))
			req, err := http.NewRequestWithContext(t.Context(), "POST", base+"/v2.6/"+path, io.NopCloser(body))
			if err != nil {
				t.Fatal(err)
			}
			if announced {
				req.ContentLength = 100<<20 + 19
			}
			rsp, err := admin.Do(req)
			if err != nil {
				continue // the connection was closed while we were still sending
			}
			rsp.Body.Close()
			if rsp.StatusCode != http.StatusRequestEntityTooLarge {
				t.Errorf("%s, length announced %v: %d", path, announced, rsp.StatusCode)
			}
		}
	}
	for _, kind := range store.PolicyKinds() {
		if names, err := v.store.PolicyNames(t.Context(), kind); err != nil || len(names) > 0 {
			t.Errorf("%s policies %v, %v", kind, names, err)
		}
	}
}

// NT-42: a large valid policy is uploaded while agents are attested: their rounds go on.
func TestLargeUploadLeavesRoundsAlone(t *testing.T) {
	t.Parallel()
	if testing.Short() {
		t.Skip("takes seconds")
	}
	v := startVerifier(t, fastConfig(t), openStore(t))
	base, admin := v.serve(t)
	ids := []string{"a1", "a2", "a3", "a4"}
	for _, id := range ids {
		agent := startAgent(t, id)
		v.add(t, agent, agent.enrolment(agent.runtimePolicy()))
		v.passes(t, id, 1)
	}
	var digests strings.Builder
	for i := range 200_000 {
		fmt.Fprintf(&digests, `"/usr/lib/package-%d/file":["%064x"],`, i, i)
	}
	large := strings.Replace(startAgent(t, "large").runtimePolicy(), `"digests":{`, `"digests":{`+digests.String(), 1)
	body := string(upload(large))

	done := make(chan struct{})
	var watch sync.WaitGroup
	longest := make([]time.Duration, len(ids))
	for i, id := range ids {
		watch.Go(func() {
			count, since := v.status(t, id).AttestationCount, time.Now()
			for {
				if n := v.status(t, id).AttestationCount; n != count {
					longest[i], count, since = max(longest[i], time.Since(since)), n, time.Now()
				}
				select {
				case <-done:
					longest[i] = max(longest[i], time.Since(since))
					return
				case <-time.After(5 * time.Millisecond):
				}
			}
		})
	}
	start := time.Now()
	status, answer := request(t, admin, "POST", base+"/v2.6/allowlists/large", body)
	took := time.Since(start)
	close(done)
	watch.Wait()
	if status != http.StatusCreated {
		t.Fatalf("%d %.200s", status, answer)
	}
	for i, id := range ids {
		if st := v.status(t, id); st.AttestationStatus != "PASS" {
			t.Errorf("status %s", encode(t, st))
		}
		// A round waits for no upload: at worst it shares the machine with one.
		if longest[i] > max(2*time.Second, took/2) {
			t.Errorf("%s had no round for %v while %d MB were uploaded in %v", id, longest[i], len(body)>>20, took)
		}
	}
	t.Logf("%d MB in %v; longest pause between rounds %v", len(body)>>20, took, longest)
	if err := api.NewVerifier(base, admin).DeleteRuntimePolicy(t.Context(), "2.6", "large"); err != nil {
		t.Error(err)
	}
}

package verifier

import (
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"net/http"
	"strings"
	"testing"

	"github.com/rs/zerolog"

	"keylime/internal/api"
	"keylime/internal/config"
	"keylime/internal/fleet"
	"keylime/internal/policy"
	"keylime/store"
	"keylime/tpm"
)

// boots has the agent's machine boot a chain; its measurement list starts anew.
func (a *testAgent) boots(t testing.TB, chain fleet.BootChain) {
	t.Helper()
	a.mu.Lock() // no quote while the machine boots
	defer a.mu.Unlock()
	a.boot = chain.Log(tpm.SHA1, tpm.SHA256)
	if err := a.boot.Boot(a.tpm); err != nil {
		t.Fatal(err)
	}
	list, err := fleet.NewMeasured(a.tpm)
	if err != nil {
		t.Fatal(err)
	}
	a.list = list
}

// measuredEnrolment is an enrolment with a measured-boot policy, with the mask that tenants send then.
func (a *testAgent) measuredEnrolment(mbPolicy string) api.EnrolRequest {
	req := a.enrolment(a.runtimePolicy("/usr/bin/good"))
	mask := `{"mask": "0xffff"}`
	req.TPMPolicy, req.MBPolicy = &mask, &mbPolicy
	return req
}

func bootConfig(t testing.TB, engine string) config.Verifier {
	t.Helper()
	cfg := fastConfig(t)
	cfg.MeasuredBootEngine = engine
	return cfg
}

// TestMeasuredBoot attests a machine that boots what its reference state says. The runtime policy does not know its
// boot_aggregate: the event log explains it. Then another kernel is booted, and the agent fails.
func TestMeasuredBoot(t *testing.T) {
	t.Parallel()
	for _, engine := range []string{policy.BootExample, policy.BootExampleRelaxed} {
		t.Run(engine, func(t *testing.T) {
			t.Parallel()
			agent := startAgent(t, "a1")
			chain := fleet.NewBootChain("1")
			agent.boots(t, chain)
			agent.measure(t, "/usr/bin/good")
			v := startVerifier(t, bootConfig(t, engine), openStore(t))
			v.add(t, agent, agent.measuredEnrolment(chain.Reference()))
			st := v.passes(t, "a1", 3)
			if st.HasMBRefstate != 1 || strings.Join(st.Appraises, " ") != "runtime_policy mb_policy" {
				t.Errorf("status %s", encode(t, st))
			}
			if asked := agent.asked("GET /v2.6/quotes/integrity"); !strings.Contains(asked[0], "mask=0xffff&") {
				t.Errorf("asked %s", asked[0])
			}
			other := chain
			other.Kernel = "kernel of somebody else"
			agent.boots(t, other) // NT-33
			st = v.until(t, "a1", "failure", inState(store.StateInvalidQuote))
			if *st.LastEventID != "measured_boot.policy_"+engine || !strings.Contains(string(st.LastEventContext), "which is not approved") {
				t.Errorf("status %s", encode(t, st))
			}
		})
	}
}

// TestMaskCannotSwitchMeasuredBootOff asks for the PCRs that the policy judges, whatever the tenant's mask is.
func TestMaskCannotSwitchMeasuredBootOff(t *testing.T) {
	t.Parallel()
	agent := startAgent(t, "a1")
	agent.boots(t, fleet.NewBootChain("2"))
	v := startVerifier(t, bootConfig(t, policy.BootExample), openStore(t))
	req := agent.measuredEnrolment(fleet.NewBootChain("1").Reference())
	mask := `{"mask": "0x400"}`
	req.TPMPolicy = &mask
	v.add(t, agent, req)
	v.until(t, "a1", "failure", inState(store.StateInvalidQuote))
	if asked := agent.asked("GET /v2.6/quotes/integrity"); !strings.Contains(asked[0], "mask=0x47ff&") {
		t.Errorf("asked %s", asked[0])
	}
}

// TestNamedMeasuredBootPolicyTakesEffect updates a policy that agents name: the next round is judged by the new text.
func TestNamedMeasuredBootPolicyTakesEffect(t *testing.T) {
	t.Parallel()
	agent := startAgent(t, "a1")
	agent.boots(t, fleet.NewBootChain("1"))
	v := startVerifier(t, bootConfig(t, policy.BootExample), openStore(t))
	upload := func(text string) []byte { return encode(t, map[string]string{"mb_policy": text}) }
	if err := v.addMBPolicy(t.Context(), "boot", upload("{}")); err != nil {
		t.Fatal(err)
	}
	req := agent.measuredEnrolment("")
	name, runtime := "boot", ""
	req.MBPolicyName, req.RuntimePolicy = &name, &runtime
	mask := `{"mask": "0x0"}`
	req.TPMPolicy = &mask
	v.add(t, agent, req)
	if st := v.passes(t, "a1", 1); st.HasMBRefstate != 1 || len(st.Appraises) != 0 {
		t.Errorf("status %s", encode(t, st))
	}
	if err := v.updateMBPolicy(t.Context(), "boot", upload(fleet.NewBootChain("1").Reference())); err != nil {
		t.Fatal(err)
	}
	st := v.status(t, "a1")
	if strings.Join(st.Appraises, " ") != "mb_policy" {
		t.Errorf("status %s", encode(t, st))
	}
	v.passes(t, "a1", st.AttestationCount+2)
	if err := v.updateMBPolicy(t.Context(), "boot", upload(fleet.NewBootChain("2").Reference())); err != nil {
		t.Fatal(err)
	}
	if st := v.until(t, "a1", "failure", inState(store.StateInvalidQuote)); *st.LastEventID != "measured_boot.policy_example" {
		t.Errorf("status %s", encode(t, st))
	}
}

// TestBadBootEvidence answers with logs that are none.
func TestBadBootEvidence(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct{ log, want string }{
		"not base64":   {"!", "measured_boot.parser.log.base64decode"},
		"not a log":    {"AAAA", "measured_boot.parser.tpm2_eventlog.error"},
		"no log":       {"", "pcr_validation.unused_pcr_0"},
		"other boot's": {"", ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			agent := startAgent(t, "a1")
			agent.boots(t, fleet.NewBootChain("1"))
			other := fleet.NewBootChain("2").Log(tpm.SHA1, tpm.SHA256)
			agent.become(func(w http.ResponseWriter, r *http.Request) bool {
				if !strings.Contains(r.URL.Path, "integrity") {
					return false
				}
				mask, _ := tpm.ParseMask(r.URL.Query().Get("mask"))
				results, err := agent.evidence(r.URL.Query().Get("nonce"), mask, true, 0)
				if err != nil {
					t.Error(err)
				}
				results.BootLog = &c.log
				if c.want == "" {
					log := base64.StdEncoding.EncodeToString(other.Bytes())
					results.BootLog = &log
				}
				replyOK(w, results)
				return true
			})
			v := startVerifier(t, bootConfig(t, policy.BootExample), openStore(t))
			req := agent.measuredEnrolment(fleet.NewBootChain("1").Reference())
			aggregate := fleet.BootMeasurement(func(i int) []byte { return agent.tpm.PCR(tpm.SHA256, i) }).Digest
			runtime := strings.Replace(agent.runtimePolicy(), hex.EncodeToString(fleet.BootMeasurement(func(int) []byte { return make([]byte, 32) }).Digest), hex.EncodeToString(aggregate), 1)
			encoded := base64.StdEncoding.EncodeToString([]byte(runtime))
			req.RuntimePolicy = &encoded
			v.add(t, agent, req)
			want := c.want
			if want == "" {
				want = "measured_boot.invalid_pcr_0"
			}
			if st := v.until(t, "a1", "failure", inState(store.StateInvalidQuote)); *st.LastEventID != want {
				t.Errorf("status %s, want %s", encode(t, st), want)
			}
		})
	}
}

// TestMeasuredBootPoliciesAreCheckedOnUpload names the place of what is wrong (NT-44).
func TestMeasuredBootPoliciesAreCheckedOnUpload(t *testing.T) {
	t.Parallel()
	v := startVerifier(t, bootConfig(t, policy.BootExample), openStore(t))
	base, admin := v.serve(t)
	good := fleet.NewBootChain("1").Reference()
	for text, want := range map[string]string{
		"&anchor {}":                       "measured boot policy: byte 0: want a value",
		`{"a":1,"a":2}`:                    `stands twice in one object`,
		strings.Repeat(`{"a":`, 100) + "1": "nested too deeply",
		`{"pk":[]}`:                        `"kernels"`,
		strings.Replace(good, `"kernel_cmdline":"`, `"kernel_cmdline":"(?=x)`, 1): "look-ahead is not supported at position",
		strings.Replace(good, `"sha256":"0x`, `"sha256":"0xX`, 1):                 "want 0x and lower-case hex digits",
		strings.Replace(good, `"sha256":"0x`, `"sha256":"0x00`, 1):                "digest of 33 bytes, want 32",
	} {
		body, err := json.Marshal(map[string]string{"mb_policy": text})
		if err != nil {
			t.Fatal(err)
		}
		status, answer := request(t, admin, "POST", base+"/v2.6/mbpolicies/p", string(body))
		if status != 400 || !strings.Contains(statusText(answer), want) {
			t.Errorf("%.60s: %d %s, want %s", text, status, answer, want)
		}
	}
	if status, answer := request(t, admin, "GET", base+"/v2.6/mbpolicies/p", ""); status != 404 {
		t.Errorf("something was stored: %d %s", status, answer)
	}
}

// NT-97: an engine that does not exist stops the verifier from starting, and the engines of the configuration are those
// there are.
func TestUnknownEngineIsRefused(t *testing.T) {
	t.Parallel()
	cfg := bootConfig(t, "no-such")
	if _, err := New(t.Context(), cfg, openStore(t), Options{Log: zerolog.Nop()}); err == nil || !strings.Contains(err.Error(), "measured_boot_policy_name") {
		t.Errorf("got %v", err)
	}
	for _, engine := range policy.BootEngines() {
		_, _, err := config.LoadVerifier(config.Sources{Root: t.TempDir(), Environ: []string{"KEYLIME_VERIFIER_MEASURED_BOOT_POLICY_NAME=" + engine}})
		if err != nil {
			t.Errorf("%s: %v", engine, err)
		}
	}
}

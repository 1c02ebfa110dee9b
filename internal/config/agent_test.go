package config

import (
	"slices"
	"strings"
	"testing"
	"time"
)

func TestAgentFilesMerge(t *testing.T) {
	t.Parallel()
	src := machine(t, map[string]string{
		"usr/etc/keylime/agent.conf":          "[agent]\nport = 1\ncontact_port = 1\nregistrar_port = 1\nuuid = \"a\"\n",
		"usr/etc/keylime/agent.conf.d/1.conf": "[agent]\ncontact_port = 2\nregistrar_port = 2\nuuid = \"b\"\n",
		"etc/keylime/agent.conf":              "[agent]\nregistrar_port = 3\nuuid = \"c\"\n",
		"etc/keylime/agent.conf.d/1.conf":     "[agent]\nuuid = \"d\"\n",
	})
	a, rep, err := LoadAgent(src)
	if err != nil {
		t.Fatal(err)
	}
	if a.Port != 1 || a.ContactPort != 2 || a.RegistrarPort != 3 || a.UUID != "d" || len(rep.Files) != 4 {
		t.Errorf("ports %d %d %d, id %s from %v", a.Port, a.ContactPort, a.RegistrarPort, a.UUID, rep.Files)
	}
	if _, _, err := LoadAgent(machine(t, nil, "KEYLIME_AGENT_CONFIG=$ROOT/none")); err == nil || !strings.Contains(err.Error(), "KEYLIME_AGENT_CONFIG") {
		t.Errorf("missing KEYLIME_AGENT_CONFIG: %v", err)
	}
}

func TestAgentIDs(t *testing.T) {
	t.Parallel()
	const normal = "d432fbb3-d2f1-4a97-9ef7-75bd81c00000"
	for id, want := range map[string]string{
		normal:                                          normal,
		"D432FBB3-D2F1-4A97-9EF7-75BD81C00000":          normal,
		"d432fbb3d2f14a979ef775bd81c00000":              normal,
		"{d432fbb3-d2f1-4a97-9ef7-75bd81c00000}":        normal,
		"urn:uuid:d432fbb3-d2f1-4a97-9ef7-75bd81c00000": normal,
		"node-1.example_x":                              "node-1.example_x",
		"generate":                                      "generate",
		"HASH_EK ":                                      "hash_ek",
		"dmidecode":                                     "dmidecode",
		"hostname":                                      "hostname",
	} {
		a, _, err := LoadAgent(machine(t, nil, "KEYLIME_AGENT_UUID="+id))
		if err != nil || a.UUID != want {
			t.Errorf("%q gives %q, %v; want %q", id, a.UUID, err, want)
		}
	}
}

// Values that upgrade tools emptied mean the default; lists are strings with a grammar of their own.
func TestAgentFileTolerance(t *testing.T) {
	t.Parallel()
	a, rep, err := LoadAgent(machine(t, map[string]string{"etc/keylime/agent.conf": `
[agent]
tls_dir = "default"
agent_data_path = ""
verifier_url = ""
certification_keys_server_identifier = ""
port = "9003"
enable_agent_mtls = "yes"
extract_payload_zip = 0
ip = "[::1]"
trusted_client_ca = '["a.crt", /b.crt]'
revocation_actions = "[one.py two.py]"
tpm_ownerpassword = "hex:00ff"
ima_ml_path = "proc/ima"
tpm_encryption_alg = "ecc_nist_p384"
exponential_backoff_initial_delay = 1500
measure_payload_pcr = -1
`}))
	if err != nil {
		t.Fatal(err)
	}
	auth, _ := a.EndorsementAuth()
	if a.AgentDataPath != DefaultDir+"/agent_data.json" || a.Port != 9003 || !a.EnableAgentMTLS || a.ExtractPayloadZip || a.IP != "::1" ||
		!slices.Equal(a.TrustedClientCA, []string{DefaultDir + "/a.crt", "/b.crt"}) || !slices.Equal(a.RevocationActions, []string{"one.py", "two.py"}) ||
		string(auth) != "\x00\xff" || a.IMAMLPath != "/proc/ima" || a.TPMEncryptionAlg != "ecc384" || a.BackoffInitialDelay != 1500*time.Millisecond {
		t.Errorf("got %+v", a)
	}
	if len(rep.Warnings) != 0 {
		t.Errorf("warnings %q", rep.Warnings)
	}
}

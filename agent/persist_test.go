package agent

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"keylime/internal/fleet"
	"keylime/tpm"
	"keylime/tpm/device"
)

func sha256Hex(text []byte) string {
	digest := sha256.Sum256(text)
	return hex.EncodeToString(digest[:])
}

func exampleAK(t testing.TB) (akIdentity, device.AKBlob) {
	t.Helper()
	soft, err := fleet.NewSoftTPM(rand.Reader, "ecc256")
	if err != nil {
		t.Fatal(err)
	}
	private := append([]byte{0, 5}, "blob!"...)
	return akIdentity{tpm.SHA256, "ecdsa", strings.Repeat("0a", 32)}, device.AKBlob{Public: soft.AKPublic(), Private: private}
}

func TestAgentDataKeepsItsFormat(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "agent_data.json")
	id, blob := exampleAK(t)
	if err := saveAgentData(file, id, blob); err != nil {
		t.Fatal(err)
	}
	if info, err := os.Stat(file); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, %v", info.Mode(), err)
	}
	var raw struct {
		HashAlg string `json:"ak_hash_alg"`
		SignAlg string `json:"ak_sign_alg"`
		Public  []int  `json:"ak_public"`
		Private []int  `json:"ak_private"`
		EKHash  []int  `json:"ek_hash"`
	}
	if err := json.Unmarshal([]byte(read(t, file)), &raw); err != nil {
		t.Fatal(err)
	}
	if raw.HashAlg != "Sha256" || raw.SignAlg != "EcDsa" {
		t.Errorf("algorithms %s, %s", raw.HashAlg, raw.SignAlg)
	}
	if diff := cmp.Diff([]int{'b', 'l', 'o', 'b', '!'}, raw.Private); diff != "" {
		t.Errorf("private: %s", diff)
	}
	if len(raw.Public) != len(blob.Public)-2 || raw.Public[0] != int(blob.Public[2]) {
		t.Errorf("public area has %d bytes, the TPM2B %d", len(raw.Public), len(blob.Public))
	}
	if len(raw.EKHash) != 64 || raw.EKHash[0] != '0' || raw.EKHash[1] != 'a' {
		t.Errorf("EK hash is %v", raw.EKHash)
	}
	back, err := loadAgentData(file, id)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(blob, back); diff != "" {
		t.Error(diff)
	}
}

// NT-69
func TestAgentDataOfAnotherTPMOrDamagedIsNotUsed(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	id, blob := exampleAK(t)
	file := filepath.Join(dir, "agent_data.json")
	if err := saveAgentData(file, id, blob); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]akIdentity{
		"another TPM":    {id.hash, id.scheme, strings.Repeat("0b", 32)},
		"another hash":   {tpm.SHA384, id.scheme, id.ekHash},
		"another scheme": {id.hash, "rsassa", id.ekHash},
	} {
		if _, err := loadAgentData(file, want); !errors.Is(err, errOtherAK) {
			t.Errorf("%s: got %v", name, err)
		}
	}
	if _, err := loadAgentData(file+"x", id); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("missing: got %v", err)
	}
	text := read(t, file)
	for name, damaged := range map[string]string{
		"truncated":      text[:len(text)/2],
		"empty":          "",
		"trailing":       text + "x",
		"name twice":     strings.Replace(text, "{", `{"ek_hash":[1],`, 1),
		"big numbers":    strings.Replace(text, `"ak_private":[`, `"ak_private":[256,`, 1),
		"public cut":     strings.Replace(text, `"ak_public":[0,`, `"ak_public":[`, 1),
		"no object":      `["` + strings.Repeat("a", 100) + `"]`,
		"too big":        text + strings.Repeat(" ", maxAgentData),
		"nested deeply":  strings.Repeat("[", 10000),
		"fields missing": `{}`,
	} {
		bad := writeFile(t, filepath.Join(dir, "damaged"), damaged, 0o600)
		if _, err := loadAgentData(bad, id); err == nil || errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%s: got %v", name, err)
		}
	}
}

func TestFileIsReplacedWholeOrNotAtAll(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	file := writeFile(t, filepath.Join(dir, "file"), "before", 0o644)
	if err := writePrivate(file, []byte("after")); err != nil {
		t.Fatal(err)
	}
	if err := writePrivate(filepath.Join(dir, "nowhere", "file"), nil); err == nil {
		t.Error("wrote into a directory that does not exist")
	}
	if diff := cmp.Diff(map[string]string{"file": "-rw------- after"}, tree(t, dir)); diff != "" {
		t.Error(diff)
	}
}

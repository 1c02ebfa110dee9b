package policytool

import (
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"

	"keylime/internal/fleet"
	"keylime/tpm"
)

func TestEventLog(t *testing.T) {
	t.Parallel()
	soft, err := fleet.NewSoftTPM(rand.Reader, "ecc256")
	if err != nil {
		t.Fatal(err)
	}
	log := fleet.NewBootChain("1").Log(tpm.SHA1, tpm.SHA256)
	if err := log.Boot(soft); err != nil {
		t.Fatal(err)
	}
	name := file(t, "log", string(log.Bytes()))
	out, _, err := tool(t, "eventlog", "--json", name)
	if err != nil {
		t.Fatal(err)
	}
	var got map[string]json.RawMessage
	var pcrs map[string]map[string]string
	var events []struct {
		EventNum, PCRIndex int
		EventType          string
	}
	if err := errors.Join(json.Unmarshal([]byte(out), &got), json.Unmarshal(got["pcrs"], &pcrs), json.Unmarshal(got["events"], &events)); err != nil || len(got) != 2 {
		t.Fatalf("%v: %s", err, out)
	}
	for _, bank := range []tpm.Hash{tpm.SHA1, tpm.SHA256} {
		if len(pcrs[bank.String()]) < 8 {
			t.Errorf("bank %v: %v", bank, pcrs[bank.String()])
		}
		for pcr, value := range pcrs[bank.String()] {
			var n int
			if _, err := fmt.Sscan(pcr, &n); err != nil || value != hex.EncodeToString(soft.PCR(bank, n)) {
				t.Errorf("bank %v, PCR %s: %s, the TPM has %x", bank, pcr, value, soft.PCR(bank, n))
			}
		}
	}
	out, _, err = tool(t, "eventlog", name)
	if err != nil || strings.Count(out, "  PCR ") < len(events) || len(events) < 10 || !strings.Contains(out, "EV_SEPARATOR") || !strings.Contains(out, "bound") {
		t.Errorf("%v, %d events\n%s", err, len(events), out)
	}
}

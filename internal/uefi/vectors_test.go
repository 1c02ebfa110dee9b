package uefi

import (
	"encoding/base64"
	"encoding/hex"
	"strings"
	"testing"

	"keylime/internal/recorded"
	"keylime/tpm"
)

// recordedLog reads a log of real firmware.
func recordedLog(t testing.TB, name string) []byte {
	t.Helper()
	raw := recorded.File(t, "uefi/"+name)
	if !strings.HasSuffix(name, ".b64") {
		return raw
	}
	decoded, err := base64.StdEncoding.DecodeString(strings.ReplaceAll(string(raw), "\n", ""))
	if err != nil {
		t.Fatal(err)
	}
	return decoded
}

// recordedLogs are logs of real firmware, and what independent implementations replay them to.
var recordedLogs = []struct {
	name       string
	bank       tpm.Hash
	events     int
	pcr0, pcr7 string
}{
	{"fedora-vm-secureboot.bin", tpm.SHA256, 95, "fcb62056", "10c2cd11"},
	{"vm-no-secureboot.bin", tpm.SHA256, 107, "1c38736b", "b926225a"},
	{"physical-locality3.bin", tpm.SHA256, 121, "0ee9a7fe", "741fd028"},
	{"physical-locality3.bin", tpm.SHA1, 121, "78f3e576d5da8873860e557535d181f4a37e2963", ""},
	{"rhel-secureboot.bin", tpm.SHA256, 99, "0d993cf4", "2f96e1f1bf7f91b6f17e1bcb823e717e43782ff75481237711f2ed7bf8a8edb1"},
	{"centos-vm-secureboot.b64", tpm.SHA256, 102, "9d244214", "b4d80467"},
	{"crypto-agile.bin", tpm.SHA256, 27, "1536de22", "3d6207f9"},
	{"tcg12-no-exit-boot-services.bin", tpm.SHA1, 38, "b4766c15", "c6b89634"},
	{"sb-cert.bin", tpm.SHA256, 15, "fcecb56a", "51b30488"},
	{"debian10-gcp-tcg12.bin", tpm.SHA1, 25, "0f2d3a2a", "9e6c57e8"},
	{"rhel8-gcp.bin", tpm.SHA256, 83, "24af52a4", "5fd54361"},
	{"ubuntu2104-gcp.bin", tpm.SHA256, 106, "24af52a4", "0d8847bc"},
	{"server-159-events.bin", tpm.SHA256, 159, "dab77c45", "2c925260"},
}

// TestRecordedLogsReplay holds parser and replay to logs of real firmware.
func TestRecordedLogsReplay(t *testing.T) {
	t.Parallel()
	for _, want := range recordedLogs {
		t.Run(want.name+"/"+want.bank.String(), func(t *testing.T) {
			t.Parallel()
			log, err := Parse(recordedLog(t, want.name))
			if err != nil {
				t.Fatal(err)
			}
			if got := len(log.Events()); got != want.events {
				t.Errorf("%d events, want %d", got, want.events)
			}
			pcrs, err := log.PCRs(want.bank)
			if err != nil {
				t.Fatal(err)
			}
			for pcr, prefix := range map[int]string{0: want.pcr0, 7: want.pcr7} {
				if got := hex.EncodeToString(pcrs.Value(pcr)); !strings.HasPrefix(got, prefix) {
					t.Errorf("PCR %d is %s, want %s…", pcr, got, prefix)
				}
			}
		})
	}
}

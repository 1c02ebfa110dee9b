package attest

import (
	"bytes"
	"encoding/base64"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"keylime/internal/policy"
	"keylime/tpm"
)

var exampleStates = map[string]State{
	"zero": {},
	"attested-no-ima": {
		Attested: true,
		Clock:    tpm.Clock{Clock: 123456789, ResetCount: 7, RestartCount: 1, Safe: true},
	},
	"ima": {
		Attested:  true,
		Clock:     tpm.Clock{Clock: 1<<63 + 5, ResetCount: 1<<32 - 1, RestartCount: 3, Safe: true},
		Bank:      tpm.SHA256,
		NextEntry: 826,
		PCR10:     bytes.Repeat([]byte{0xC4}, 32),
		Shown:     830,
		Keyrings:  map[string]string{".ima": `{"pubkeys":["AA=="],"keyids":[1]}`, ".evm": "{}"},
	},
	"boot": {
		Attested: true,
		Clock:    tpm.Clock{Clock: 3, ResetCount: 2, Safe: true},
		Boot:     bytes.Repeat([]byte{0xB0}, 32),
	},
	"devices": {
		Attested: true,
		Clock:    tpm.Clock{Clock: 4, ResetCount: 2, Safe: true},
		DeviceMapper: &DeviceMapper{Policy: "ab", Devices: policy.Devices{
			"CRYPT-1": {Active: true, Valid: true, Table: "sha256:cd", Rule: "root"}, "": {},
		}},
	},
	"restarted": {
		Attested: true,
		Clock:    tpm.Clock{Clock: 1, ResetCount: 2, Safe: true},
		Shown:    17,
	},
}

// The files in testdata/state were written by released versions; they must stay readable for ever.
func TestStateGoldenFiles(t *testing.T) {
	t.Parallel()
	for name, want := range exampleStates {
		file := filepath.Join("testdata", "state", fmt.Sprintf("v%d-%s", stateVersion, name))
		if os.Getenv("KEYLIME_WRITE_GOLDEN") != "" {
			if err := os.WriteFile(file, want.Encode(), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		encoded, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		got, err := DecodeState(encoded)
		if err != nil {
			t.Fatalf("%s: %v", file, err)
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s decodes differently (-want +got):\n%s", file, diff)
		}
		if !bytes.Equal(want.Encode(), encoded) {
			t.Errorf("%s: the encoding changed without a new version", file)
		}
	}
}

// TestOldStatesDecode reads the files of earlier versions, which lack the later fields.
func TestOldStatesDecode(t *testing.T) {
	t.Parallel()
	for name, want := range exampleStates {
		encoded, err := os.ReadFile(filepath.Join("testdata", "state", "v1-"+name))
		if errors.Is(err, fs.ErrNotExist) && (want.Boot != nil || want.DeviceMapper != nil) {
			continue // there was no such state
		}
		if err != nil {
			t.Fatal(err)
		}
		got, err := DecodeState(encoded)
		if diff := cmp.Diff(want, got); diff != "" || err != nil {
			t.Errorf("v1-%s: %v (-want +got):\n%s", name, err, diff)
		}
	}
}

func TestDecodeStateRefuses(t *testing.T) {
	t.Parallel()
	for name, encoded := range map[string]string{
		"newer version":        "\x03{}",
		"boot in version 1":    "\x01{\"boot\":\"" + base64.StdEncoding.EncodeToString(make([]byte, 32)) + "\"}",
		"boot of wrong length": "\x02{\"boot\":\"AAAA\"}",
		"unknown field":        "\x01{\"surprise\":1}",
		"trailing data":        "\x01{}{}",
		"devices in v1":        "\x01{\"deviceMapper\":{\"policy\":\"\"}}",
		"truncated":            "\x01{\"attested\":tr",
		"PCR of wrong length":  "\x01{\"bank\":11,\"pcr10\":\"AAAA\"}",
		"unknown bank":         "\x01{\"bank\":99}",
		"entries without PCR":  "\x01{\"nextEntry\":5}",
		"PCR without its bank": "\x01{\"pcr10\":\"AAAA\"}",
	} {
		if s, err := DecodeState([]byte(encoded)); err == nil {
			t.Errorf("%s: accepted as %+v", name, s)
		}
	}
	if _, err := DecodeState([]byte{9}); err == nil || !strings.Contains(err.Error(), "newer release") {
		t.Errorf("unknown version: error %v does not say what is the matter", err)
	}
}

func TestDecodeStateOfNothingIsZero(t *testing.T) {
	t.Parallel()
	got, err := DecodeState(nil)
	if err != nil || !cmp.Equal(got, State{}) {
		t.Errorf("got %+v, %v", got, err)
	}
}

// FuzzDecodeState: no input panics, and what is accepted survives a round trip.
func FuzzDecodeState(f *testing.F) {
	for _, s := range exampleStates {
		f.Add(s.Encode())
	}
	f.Add([]byte("\x01{\"bank\":4,\"pcr10\":\"\"}"))
	f.Fuzz(func(t *testing.T, encoded []byte) {
		s, err := DecodeState(encoded)
		if err != nil {
			return
		}
		again, err := DecodeState(s.Encode())
		if err != nil {
			t.Fatalf("encoding of %+v is refused: %v", s, err)
		}
		if !bytes.Equal(again.Encode(), s.Encode()) {
			t.Fatalf("%+v became %+v", s, again)
		}
	})
}

package agent

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"

	"keylime/internal/strictjson"
)

// callMemory is what an agent that calls in must know after a restart, so that it neither unpacks a payload nor carries
// out a revocation twice. Numbers are each verifier's own, by its URL.
type callMemory struct {
	file string
	boot string // id of this boot

	Boot     string            `json:"boot_id"`                      // of what was unpacked: the secure directory does not outlive it
	Payloads map[string]uint64 `json:"payload_revisions,omitempty"`  // unpacked last
	Notices  map[string]uint64 `json:"revocation_notices,omitempty"` // the highest taken
}

const (
	callMemoryFile = "push_agent.json"
	maxCallMemory  = 64 << 10
)

// readCallMemory reads what was kept. A file that is damaged is an error: it is removed by whoever finds out why.
func readCallMemory(file, boot string) (*callMemory, error) {
	m := &callMemory{file: file, boot: boot}
	text, err := readBounded(file, maxCallMemory)
	switch {
	case errors.Is(err, fs.ErrNotExist):
	case err != nil:
		return nil, err
	default:
		if err := strictjson.Unmarshal(text, 4, m); err != nil {
			return nil, fmt.Errorf("%s is damaged, remove it: payloads and revocations will be carried out once more: %w", file, err)
		}
	}
	if m.Boot != boot {
		m.Boot, m.Payloads = boot, nil
	}
	return m, nil
}

// unpacked notes the payload that was unpacked; took, the notices that were taken.
func (m *callMemory) unpacked(verifier string, revision uint64) error {
	return m.note(&m.Payloads, verifier, revision)
}

func (m *callMemory) took(verifier string, notice uint64) error {
	return m.note(&m.Notices, verifier, notice)
}

func (m *callMemory) note(in *map[string]uint64, verifier string, number uint64) error {
	if (*in)[verifier] == number {
		return nil
	}
	if *in == nil {
		*in = map[string]uint64{}
	}
	(*in)[verifier] = number
	text, err := json.Marshal(m)
	if err != nil {
		return fmt.Errorf("keep what verifiers sent: %w", err)
	}
	return writePrivate(m.file, text)
}

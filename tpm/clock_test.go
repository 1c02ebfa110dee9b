package tpm_test

import (
	"errors"
	"testing"

	"keylime/tpm"
)

// NT-27: a quote's clock must come after the last one's, by reset count, restart count and clock.
func TestClockMustAdvance(t *testing.T) {
	t.Parallel()
	prev := tpm.Clock{Clock: 1000, ResetCount: 5, RestartCount: 2, Safe: true}
	for _, c := range []struct {
		name   string
		now    tpm.Clock
		ok     bool
		unsafe bool
	}{
		{"later", tpm.Clock{Clock: 1001, ResetCount: 5, RestartCount: 2, Safe: true}, true, false},
		{"the same again", prev, false, false},
		{"lower clock", tpm.Clock{Clock: 999, ResetCount: 5, RestartCount: 2, Safe: true}, false, false},
		{"resumed", tpm.Clock{Clock: 1001, ResetCount: 5, RestartCount: 3, Safe: true}, true, false},
		{"lower restart count", tpm.Clock{Clock: 2000, ResetCount: 5, RestartCount: 1, Safe: true}, false, false},
		{"rebooted", tpm.Clock{Clock: 1001, ResetCount: 6, RestartCount: 0, Safe: true}, true, false},
		{"rebooted, clock set back by a power cut", tpm.Clock{Clock: 900, ResetCount: 6, Safe: true}, true, false},
		{"lower reset count", tpm.Clock{Clock: 2000, ResetCount: 4, RestartCount: 9, Safe: true}, false, false},
		{"both counts changed, clock replayed", tpm.Clock{Clock: 1000, ResetCount: 4, RestartCount: 3, Safe: true}, false, false},
		{"not safe", tpm.Clock{Clock: 1001, ResetCount: 6}, false, true},
		{"not safe and not later", tpm.Clock{Clock: 999, ResetCount: 5, RestartCount: 2}, false, false},
	} {
		err := prev.Check(c.now)
		if (err == nil) != c.ok || errors.Is(err, tpm.ErrClockUnsafe) != c.unsafe {
			t.Errorf("%s: %v", c.name, err)
		}
	}
}

func TestFirstClock(t *testing.T) {
	t.Parallel()
	var none tpm.Clock
	if err := none.Check(tpm.Clock{Clock: 7, Safe: true}); err != nil {
		t.Errorf("safe: %v", err)
	}
	if err := none.Check(tpm.Clock{Clock: 7}); !errors.Is(err, tpm.ErrClockUnsafe) {
		t.Errorf("not safe: %v, want ErrClockUnsafe", err)
	}
}

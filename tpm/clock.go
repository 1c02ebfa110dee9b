package tpm

import (
	"cmp"
	"errors"
	"fmt"
)

// Clock is TPMS_CLOCK_INFO.
type Clock struct {
	Clock        uint64 `json:"clock"` // milliseconds the TPM has been powered
	ResetCount   uint32 `json:"resetCount"`
	RestartCount uint32 `json:"restartCount"` // restarts and resumes since the last reset
	Safe         bool   `json:"safe"`
}

// ErrClockUnsafe says that the TPM lost power without an orderly shutdown and cannot vouch yet that its clock
// moved on. The next quotes will: try again.
var ErrClockUnsafe = errors.New("TPM clock is not safe yet after an unorderly shutdown")

// Check reports whether a quote with the clock now may follow one with prev. Reset count, restart count and
// clock must increase, compared in this order: a reset sets the restart count to zero (part 1, "Clock and
// time"). Any safe clock may follow the zero value.
func (prev Clock) Check(now Clock) error {
	if prev != (Clock{}) && prev.compare(now) >= 0 {
		return fmt.Errorf("TPM clock did not advance: %v after %v", now, prev)
	}
	if !now.Safe {
		return ErrClockUnsafe
	}
	return nil
}

func (prev Clock) compare(now Clock) int {
	return cmp.Or(
		cmp.Compare(prev.ResetCount, now.ResetCount),
		cmp.Compare(prev.RestartCount, now.RestartCount),
		cmp.Compare(prev.Clock, now.Clock),
	)
}

// String shows reset count, restart count and clock, in the order they are compared.
func (c Clock) String() string {
	return fmt.Sprintf("reset %d restart %d clock %d ms", c.ResetCount, c.RestartCount, c.Clock)
}

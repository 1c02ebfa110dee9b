package attest

// Verify appraises one round.
func Verify(in Input) (Outcome, error) { panic("unimplemented") }

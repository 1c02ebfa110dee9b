package policy

// Limits on measured-boot policies.
const (
	// maxBootBytes: a reference state lists up to some thousand forbidden digests of 150 bytes each.
	maxBootBytes = 8 << 20
	// maxBootTests bounds what the lists of a reference state expand rules to.
	maxBootTests = 100_000
	// maxBootRuns is the largest count that at_most takes.
	maxBootRuns = 1 << 16
	// maxBootPattern: kernel command lines have at most 4 KiB; as a pattern each character may take two. A policy
	// knows some hundred of them.
	maxBootPattern  = 16 << 10
	maxBootPatterns = 1 << 20
)

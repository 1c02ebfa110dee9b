package policy

// Limits on policy texts. Uploaders are operators, but a policy file may come from anywhere.
const (
	// maxRuntimeBytes: 100,000 files take about 12 MB; the largest distributions with every package installed ten
	// times as much.
	maxRuntimeBytes = 128 << 20
	// maxDepth: a runtime policy nests three levels; extra properties may nest somewhat more.
	maxDepth = 32
	// maxExcludeBytes bounds the automaton: a byte of pattern may take some kilobytes when compiled.
	maxExcludeBytes = 128 << 10
	// maxPCRBytes: 24 PCRs with hundreds of digests each.
	maxPCRBytes = 1 << 20
)

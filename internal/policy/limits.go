package policy

// Limits on policy texts. Uploaders are operators, but a policy file may come from anywhere.
const (
	// MaxRuntimeBytes bounds a runtime policy's text: 100,000 files take about 12 MB; the largest distributions with every package installed ten
	// times as much.
	MaxRuntimeBytes = 128 << 20
	// maxDepth: a runtime policy nests three levels; extra properties may nest somewhat more.
	maxDepth = 32
	// maxPatternBytes bounds one exclude pattern and maxExcludeBytes all of them, as translated: a class such as [\W]
	// takes ten kilobytes. Package regexp bounds the memory that they take when compiled.
	maxPatternBytes = 128 << 10
	maxExcludeBytes = 512 << 10
	// maxPCRBytes: 24 PCRs with hundreds of digests each.
	maxPCRBytes = 1 << 20
	// A policy has one signer, or some while keys are exchanged. A key's id may be a whole certificate; P-521 signatures
	// have 139 bytes.
	maxSignatures = 16
	maxKeyID      = 16 << 10
	maxSig        = 256
)

package policy

// The generators of runtime policies, meta.generator.
const (
	GeneratorUnknown    = 0
	GeneratorEmpty      = 1 // stored for an agent that is added without a runtime policy
	GeneratorCompatible = 2
	GeneratorLegacy     = 3
)

// EmptyRuntime is the text stored for an agent that is added without a runtime policy.
const EmptyRuntime = `{"meta":{"version":1,"generator":1},"release":0,"digests":{},"excludes":[],"keyrings":{},"ima":{"ignored_keyrings":[],"log_hash_alg":"sha1","dm_policy":null},"ima-buf":{},"verification-keys":""}`

// Runtime is a compiled runtime policy. It is immutable and safe for concurrent use.
type Runtime struct {
	generator int
	digest    string
}

// CompileRuntime validates and compiles a runtime policy's text. Its error is an *Error, whose text is the REST API's
// answer, as in "Runtime policy is malformatted: 'meta' is a required property".
func CompileRuntime(text []byte) (*Runtime, error) { panic("unimplemented") }

// Generator is meta.generator.
func (r *Runtime) Generator() int { return r.generator }

// Digest is the hex SHA-256 of the text.
func (r *Runtime) Digest() string { return r.digest }

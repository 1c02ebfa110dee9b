package policy

import (
	"slices"

	"keylime/ima"
	"keylime/tpm"
)

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
	digest          string
	generator       int
	logHash         tpm.Hash
	digests         table // files by path
	keyrings        table // keys by ring
	buffers         table // critical data by name
	excludes        excludes
	ignoredKeyrings []string
	keys            *ima.Keyring // verification-keys
	unusableKeys    []error
	deviceMapper    *DeviceMapper // nil: device-mapper measurements are critical data like any other
	old             *Runtime      // counts as well while r takes its place; nil: none
}

// UnusableKeys says which of verification-keys cannot be used, and why. Files signed with them are not accepted for
// their signature.
func (r *Runtime) UnusableKeys() []error { return r.unusableKeys }

// DeviceMapper is the policy's ima.dm_policy; nil when it has none.
func (r *Runtime) DeviceMapper() *DeviceMapper { return r.deviceMapper }

// Generator is meta.generator.
func (r *Runtime) Generator() int { return r.generator }

// Digest is the hex SHA-256 of the text.
func (r *Runtime) Digest() string { return r.digest }

// LogHash is the algorithm of the template hashes in the measurement list (its second column), ima.log_hash_alg.
func (r *Runtime) LogHash() tpm.Hash { return r.logHash }

// empty reports whether this is the policy of an agent without one: it says so, and accepts nothing.
func (r *Runtime) empty() bool {
	if r.old != nil && !r.old.empty() {
		return false
	}
	return r.generator == GeneratorEmpty && len(r.digests.spans) == 0 && len(r.keyrings.spans) == 0 &&
		len(r.buffers.spans) == 0 && !r.excludes.any() && r.deviceMapper == nil
}

// Finding is what the policy says of one measurement. The zero value is that of an accepted one.
type Finding struct {
	Reason  Reason
	digests []byte // what would have been accepted, as in table
}

// Reason is why a measurement is not accepted.
type Reason int

const (
	Accepted    Reason = iota
	NotListed          // the policy does not know the name
	WrongDigest        // it knows the name with other digests
)

// Expected lists the digests that would have been accepted, in lower-case hex.
func (f Finding) Expected() []string { return hexDigests(f.digests) }

// File judges a measured file. The name of the digest's algorithm plays no part.
func (r *Runtime) File(path, digest []byte) Finding {
	f := r.unlessExcluded(path, r.digests.find(path, digest))
	if r.old == nil {
		return f
	}
	return r.orOld(f, func(old *Runtime) Finding { return old.File(path, digest) })
}

// Buffer judges critical data that the kernel measured under a name.
func (r *Runtime) Buffer(name, digest []byte) Finding {
	f := r.unlessExcluded(name, r.buffers.find(name, digest))
	if r.old == nil {
		return f
	}
	return r.orOld(f, func(old *Runtime) Finding { return old.Buffer(name, digest) })
}

// Key judges a key that the kernel loaded into a keyring. It is trusted to sign files only when the policy lists its
// digest: a keyring that is ignored, or whose name an exclude pattern matches, may hold any key, but none that counts.
func (r *Runtime) Key(ring, digest []byte) (f Finding, trusted bool) {
	f, trusted = r.key(ring, digest)
	if r.old == nil || trusted {
		return f, trusted
	}
	_, trusted = r.old.Key(ring, digest)
	return r.orOld(f, func(old *Runtime) Finding { f, _ := old.Key(ring, digest); return f }), trusted
}

func (r *Runtime) key(ring, digest []byte) (f Finding, trusted bool) {
	if slices.Contains(r.ignoredKeyrings, "*") || slices.Contains(r.ignoredKeyrings, string(ring)) {
		return Finding{}, false
	}
	f = r.keyrings.find(ring, digest)
	return r.unlessExcluded(ring, f), f.Reason == Accepted
}

// unlessExcluded overrides a finding for excluded names. That the patterns come last changes no result, and spares
// the accepted names the slower search.
func (r *Runtime) unlessExcluded(name []byte, f Finding) Finding {
	if f.Reason != Accepted && r.excludes.match(name) {
		return Finding{}
	}
	return f
}

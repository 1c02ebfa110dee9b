package agent

import (
	"time"

	"keylime/internal/web"
)

// What a peer may send.
const (
	maxBody      = 2 << 20 // bytes of a request; a payload has at most 1 MiB of base64 text by the tenant's limit
	maxNonce     = 64      // bytes; the largest qualifying data of a TPM with SHA-512
	maxChallenge = 1024    // bytes of /keys/verify's challenge; peers send 20
)

// What waits inside the agent.
const (
	maxPendingU      = 4  // U shares that found no V; each may carry a payload of maxBody
	maxPendingV      = 16 // V shares that found no U
	maxUsedShares    = 256
	maxRevocations   = 16               // notifications that wait for the one being carried out
	maxSeen          = 1024             // revocations remembered so that a repeated one is not carried out again
	maxListStreams   = 4                // measurement lists sent at once; each holds a few buffers of 64 KiB
	quoteTimeout     = 40 * time.Second // one quote, its wait for the TPM included; verifiers wait 60 s
	quoteTime        = 90 * time.Second // the whole exchange of a quote, a long list sent to the end
	evidenceTime     = 15 * time.Minute // delivery of evidence: 100 MB at 1 Mbit/s
	hostLookupLimit  = 5 * time.Second
	maxRetryAfter    = time.Hour // upper bound for a Retry-After
	registrarTimeout = time.Minute
	maxCallPause     = 7 * 24 * 60 * 60 // seconds; a verifier that says to come again in a year is not obeyed
	bootTimeFile     = "boot_time"      // in keylime_dir: when this boot began
)

// limits are the listener's. An agent has two or three peers, which keep their connections.
func limits() web.Limits {
	return web.Limits{MaxConns: 256, MaxPending: 64}
}

// What a payload may contain and do.
const (
	maxZipEntries   = 4096
	maxUnpacked     = 64 << 20 // bytes; the tmpfs of secure_size is usually the tighter bound
	maxRatio        = 200      // unpacked to packed bytes of one archive, once it is beyond minRatioSize
	minRatioSize    = 1 << 20
	maxActionList   = 64 << 10
	maxActions      = 256
	maxActionName   = 128
	scriptTimeout   = 30 * time.Minute // payload scripts install packages
	actionTimeout   = 5 * time.Minute  // a revocation must not be held up by the one before
	keptOutput      = 16 << 10         // bytes of a program's output for the log
	maxOutput       = 64 << 20         // a program that prints more is ended
	outputGrace     = 2 * time.Second  // for children that keep the pipe open after their parent
	maxCertificate  = 64 << 10
	maxAgentData    = 64 << 10
	maxKeyFile      = 64 << 10
	maxBootLog      = 16 << 20
	maxIdentityFile = 4 << 10
	maxMountInfo    = 16 << 20
)

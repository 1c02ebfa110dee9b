package agent

import "time"

// What a peer may send.
const (
	maxBody      = 2 << 20 // bytes of a request; a payload has at most 1 MiB of base64 text by the tenant's limit
	maxNonce     = 64      // bytes; the largest qualifying data of a TPM with SHA-512
	maxChallenge = 1024    // bytes of /keys/verify's challenge; peers send 20
	maxQuery     = 4096    // bytes of a raw query; the longest legal one has under 300
)

// What waits inside the agent.
const (
	maxPendingU      = 4  // U shares that found no V; each may carry a payload of maxBody
	maxPendingV      = 16 // V shares that found no U
	maxUsedShares    = 256
	maxPayloads      = 2    // accepted payloads that wait for the one being installed
	maxRevocations   = 16   // notifications that wait for the one being carried out
	maxSeen          = 1024 // revocations remembered so that a repeated one is not carried out again
	maxListStreams   = 4    // measurement lists sent at once; each holds two 64 KiB buffers
	quoteWait        = 20 * time.Second
	quoteTimeout     = 40 * time.Second // with quoteWait it stays below the 60 s that verifiers wait
	shutdownGrace    = 10 * time.Second
	readHeaderLimit  = 10 * time.Second
	readBodyLimit    = 30 * time.Second
	idleLimit        = 2 * time.Minute // polls come every 2 s; a warm connection spares the handshake
	writeChunkLimit  = 30 * time.Second
	maxConnections   = 256
	maxHeaderBytes   = 16 << 10
	hostLookupLimit  = 5 * time.Second
	maxRegistrarWait = time.Hour // upper bound for a Retry-After
	registrarTimeout = time.Minute
)

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

package verifier

import "time"

// Numbers that protect the verifier, with their reasons.
const (
	// maxRetryDelay bounds interval^n: an agent that comes back is noticed within it.
	maxRetryDelay = 10 * time.Minute

	// dialTimeout bounds the TCP connection and, again, the TLS handshake. A machine that needs longer is as good
	// as unreachable, and the round's own deadline is for the quote.
	dialTimeout = 10 * time.Second
	// maxIdleConns is how many warm connections are kept, at some 20 KiB each.
	maxIdleConns = 16384
	// maxSessions is how many agents can resume TLS without a full handshake.
	maxSessions = 8192
	// largeAnswer is what an agent may send without waiting: a quote and 5,000 new IMA entries.
	largeAnswer = 1 << 20
	// commitTimeout bounds the writes that end a round or a delivery, the stopping verifier's too.
	commitTimeout = 10 * time.Second
	// A commit that the store fails is tried again after minCommitRetry, then after twice that, up to maxCommitRetry.
	minCommitRetry = 50 * time.Millisecond
	maxCommitRetry = 2 * time.Second
	// leaseMargin is by how much a lease outlives the work that it is for.
	leaseMargin = 10 * time.Second
	// minIdleConn is how long a warm connection is kept at least.
	minIdleConn = 30 * time.Second
	// minPutBack keeps trouble of our own from turning into a busy loop.
	minPutBack = time.Second
	// maxTransportKey is twice the PEM text of an RSA-8192 key.
	maxTransportKey = 4 << 10

	// Enrolment. These texts are repeated in revocation messages, twice quoted: together they stay below
	// store.MaxMessage however many of their characters need escapes.
	maxOpaqueText    = 32 << 10
	maxContext       = 16 << 10
	maxKeyring       = 256 << 10
	maxHostName      = 255
	maxAlgorithms    = 32
	maxAlgorithmName = 32
	// maxTrustedKeys bounds how often a signature is tried, and maxKeyFile what is read of each key's file.
	maxTrustedKeys = 256
	maxKeyFile     = 16 << 10
	// maxJSONDepth is more than any request nests.
	maxJSONDepth = 16

	// Deliveries. deliveryTimeout bounds one attempt, a broadcast to many agents included.
	deliveryTimeout = 2 * time.Minute
	tellTimeout     = 15 * time.Second
	// maxWebhookAttempts is not the limit in practice: the message's lifetime is.
	maxWebhookAttempts = 1000
	maxDeliveries      = 32
	maxBroadcasts      = 4
	busyDelay          = 15 * time.Second // until a message is taken up again that found all of them under way
	broadcastWidth     = 16
	// listPage is how many agents are read at a time.
	listPage = 256

	// The scheduler looks at least every maxIdle, for what other processes wrote or left, and at most every minIdle.
	maxIdle = time.Second
	minIdle = 2 * time.Millisecond
	// slowAfter is when a job counts as slow: a quote takes a TPM about a second. maxSlow bounds how many rounds may be,
	// at some 30 KiB each.
	slowAfter = 2 * time.Second
	maxSlow   = 4096
	// storeRetry is the pause after the store failed.
	storeRetry = time.Second
	// claimBatch is how much is claimed in one transaction.
	claimBatch = 256

	// Checks of proposed policies. checkWidth is how many agents are asked at a time, by all checks together: few enough
	// that rounds do not feel it. checkTimeout is for a whole fleet.
	checkWidth       = 16
	checkTimeout     = time.Hour
	maxCheckFailures = 20
	maxCheckContext  = 4 << 10
	// maxWindow bounds the time in which a policy is replaced in stages: after it, a forgotten window is a hole.
	maxWindow = 90 * 24 * time.Hour
	// oneShotPeers is for how many addresses requests to verify/evidence are counted. oneShotRetry is when one that found no
	// slot may come again: most take less. oneShotTimeout bounds the sending of a log of max_upload_size, with its slot held.
	oneShotPeers   = 65_536
	oneShotRetry   = 5 * time.Second
	oneShotTimeout = time.Minute
	// policyIdle is how long a compiled policy that nobody asks for is kept: longer than any usual quote_interval.
	policyIdle = 10 * time.Minute
	// rememberedSignatures: two images of a distribution with 50,000 signed files each, in some 10 MB.
	rememberedSignatures = 100_000
	// Agents that call in. Bounds of what a request to attest lists: several times of what TPMs and agents have.
	// continuousSilence is how long an agent may be silent when quote_interval is 0: a slow TPM needs seconds for a quote.
	continuousSilence = 30 * time.Second
	maxEvidenceItems  = 16
	maxOfferedKeys    = 16
	maxFormList       = 64
	maxFormName       = 64
	maxKeyText        = 4 << 10
	maxFormErrors     = 32
	maxQuoteData      = 16 << 10 // the largest that can verify has 4 KiB
	maxUnixTime       = 1 << 35  // in the year 3058
	// challengeLength is the wire's, in bytes.
	challengeLength = 16
	// maxCallsUnderWay requests with evidence are read and judged at once; maxLargeCalls of them may have more than
	// largeAnswer, as each holds its body some four times. The others come back after busySeconds.
	maxCallsUnderWay = 512
	maxLargeCalls    = 8
	busySeconds      = 5
	// Pages of attestations: with their logs they may be large.
	defaultPage  = 20
	maxPage      = 100
	maxPageBytes = 16 << 20
	// Notices in one answer.
	maxNotices     = 16
	maxNoticeBytes = 512 << 10
	// tagSize is that of an HMAC-SHA384.
	tagSize = 48
	// openBurst attestations may be opened without delivering evidence, then one after each openEvery: many times of what
	// retries need. openKeys agents are remembered.
	openBurst = 30
	openEvery = 2 * time.Second
	openKeys  = 100_000
	// maxHeard is how many agents' last calls are remembered, at some 100 bytes each.
	maxHeard = 1_000_000
	// deadlineSlack is by how much a deadline and the clock that nobody sets may differ; clockJump is what two looks of
	// the scheduler may.
	deadlineSlack = 50 * time.Millisecond
	clockJump     = 2 * time.Second
	// maxToken is more than a session's id and secret have.
	maxToken = 256
	// maxPayloadBody is that of the largest payload that is kept, in base64.
	maxPayloadBody = 12 << 20
	// maxOpenBody is of a request to attest.
	maxOpenBody = 256 << 10
	// maxLargeAnswers are read at a time beyond that. With the client's cap of an answer this bounds the memory.
	maxLargeAnswers = 16

	// Sessions. A proof is some 500 bytes in base64 twice; a token is 80 characters; of maxSessionKeys addresses and
	// agents the rates are known at once.
	maxSessionBody = 64 << 10
	maxSessionKeys = 50_000
	mismatchPause  = 10 * time.Minute // between two log lines about the same agent
)

// mtlsDisabled stands in place of a certificate for agents that serve plain HTTP.
const mtlsDisabled = "disabled"

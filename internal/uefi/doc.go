// Package uefi reads the event log that firmware and boot loaders keep of what they measured into the TPM, and replays
// it to the PCRs of a quote.
//
// The log is what the kernel shows in binary_bios_measurements: TCG PC Client Platform Firmware Profile (PFP), section
// 10, in its two forms, TCG 1.2 (SHA-1 only) and crypto-agile. It is evidence from a machine that may be hostile. Only the
// digests are proven by a quote: neither an event's type nor its data is, unless the digest is that of the data. What
// policies read is therefore a Proven log, whose events say of each fact whether the quote covers it.
package uefi

// Limits on an event log.
const (
	// MaxLog is what agents send at most; real logs have 10 to 200 KiB.
	MaxLog = 16 << 20
	// maxEvents: real logs have 25 to 300.
	maxEvents = 1 << 16
	// maxAlgorithms: a TPM has at most five banks, and the registry of digest algorithms few more.
	maxAlgorithms = 16
	// maxDigest: SHA-512.
	maxDigest = 64
	// maxPathNodes bounds a device path; real ones have up to ten nodes.
	maxPathNodes = 256
	// maxPartitions is what a GPT header may announce; the usual table has 128 entries.
	maxPartitions = 1024
	// PCRCount is the number of PCRs of a PC Client TPM.
	PCRCount = 24
)

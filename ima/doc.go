// Package ima reads the measurement list of Linux' Integrity Measurement Architecture and replays it to PCR 10.
//
// The list is what the kernel shows in ascii_runtime_measurements (Documentation/security/IMA-templates.rst and
// security/integrity/ima/ima_fs.c): one measurement a line. It is evidence from a machine that may be hostile: every
// line is parsed strictly, as bytes, and none can do more harm than fail.
package ima

// Limits on a measurement list.
const (
	// MaxList: a line has 100 to 200 bytes, and a busy machine that measures every file read makes a million.
	MaxList = 256 << 20
	// maxLine: names have at most PATH_MAX bytes, signatures and certificates a few kilobytes; the largest lines are
	// device-mapper tables and other critical data, in hex.
	maxLine = 512 << 10
	// maxName of template "ima", TCG_EVENT_NAME_LEN_MAX in the kernel.
	maxName = 255
	// maxDigest: SHA-512.
	maxDigest = 64
	// maxAlg is longer than any hash name of the kernel's (crypto/hash_info.c).
	maxAlg = 32
)

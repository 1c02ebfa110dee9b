// Package tpm is the pure half of the TPM: it parses and verifies what a TPM 2.0 produced, and makes
// credentials for one. Nothing here does I/O or reads a clock; randomness comes from the caller, but for the
// ephemeral key of an ECC credential, which crypto/ecdh draws.
//
// Structures follow the TCG's TPM 2.0 Library, part 2. Every parser is strict: lengths are bounded,
// unknown values are errors, and trailing bytes are refused.
package tpm

// Package tpm is the pure half of the TPM: it parses and verifies what a TPM 2.0 produced, and makes
// credentials for one. Nothing here does I/O, reads a clock or draws randomness of its own.
//
// Structures follow the TCG's TPM 2.0 Library, part 2. Every parser is strict: lengths are bounded,
// unknown values are errors, and trailing bytes are refused.
package tpm

// Package device talks to a TPM 2.0: the kernel's device or a software TPM behind a socket. It makes what
// package tpm verifies.
//
// A TPM is shared: other programs use it too, and it has room for about three transient objects. Nothing stays
// loaded between two calls; an EK or AK is kept as a context that the TPM saved, and loaded for one call. So a
// program that is killed leaves nothing behind.
package device

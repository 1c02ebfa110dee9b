// Package agent is the attester of the pull model: it registers its TPM's keys, answers quote requests of the
// verifier and the tenant, takes the two halves of the bootstrap key, unpacks the payload that the key opens, and
// runs the actions that a revocation asks for.
//
// It decides nothing about trust. What it sends is evidence; what it receives is believed only as far as the
// listener's mutual TLS, the key's authentication tag and the revocation's signature carry.
package agent

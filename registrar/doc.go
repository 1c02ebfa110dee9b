// Package registrar is Keylime's registrar: it proves that an attestation key (AK) lives in the same TPM as an
// endorsement key (EK), and keeps the directory of agents.
//
// An agent registers with its public keys and gets a credential that only the TPM with that EK can open, and only for
// that AK. It activates its registration with an HMAC made with what was inside. Until then nothing that others rely
// on has changed: a pending registration is kept apart from the active one.
//
// What an agent says is checked in this order: convert.go decodes it, identity.go judges it, handlers.go stages it.
package registrar

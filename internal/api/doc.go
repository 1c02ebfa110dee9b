// Package api is the wire vocabulary of Keylime's REST API 2.x: the types that servers answer and clients read,
// versions and their negotiation, and the typed clients of registrar, verifier and agent.
//
// Encodings follow upstream's servers and agents byte for byte where a peer depends on them.
package api

// Package tenant is the operator's side of Keylime: it enrols a machine, asks how it fares, and removes it.
//
// The tenant decides whether a machine's TPM is one (the EK certificate and the AK's quote) before it hands key
// material to the agent and the AK to the verifier. It holds no state; the servers do.
//
// Every command has three outputs: a table for people, JSON for programs (stable), and the lines of upstream's
// keylime_tenant for the scripts that read those.
package tenant

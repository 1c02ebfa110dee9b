// Package fleet is the attester in software: a TPM that needs no TPM, an authority for its EK certificates and a
// measurement list to go with it. Tests forge with it, benchmarks make load with it.
package fleet

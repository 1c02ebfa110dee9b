// Package e2e holds the tests of the executable as a user gets it: whole lives of an agent on a software TPM, with each
// role played by this project or by upstream's Python programs, and servers that are killed at any moment.
//
// They need the executable (make build), swtpm, and upstream's Python roles in the virtual environment that
// KEYLIME_PEER_VENV names (make test sets all three up).
package e2e

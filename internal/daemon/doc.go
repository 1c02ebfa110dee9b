// Package daemon is what the command lines of the long-running roles share: configuration, logging, and the commands
// `config check` and `config show`.
package daemon

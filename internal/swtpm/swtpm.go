// Package swtpm runs a software TPM with an EK certificate, all its state in one directory.
package swtpm

import "context"

// Server is a running swtpm.
type Server struct{}

// Start runs a TPM whose state is in dir and makes the state when dir has none. The TPM ends with Stop, with ctx
// and with this process.
func Start(ctx context.Context, dir string) (*Server, error) { panic("unimplemented") }

// TCTI names the TPM for device.Open and other programs.
func (s *Server) TCTI() string { panic("unimplemented") }

// CertStore is a directory with the certificates (PEM) of the EK certificate's issuer and its root.
func (s *Server) CertStore() string { panic("unimplemented") }

// Restart is a power cycle.
func (s *Server) Restart(ctx context.Context) error { panic("unimplemented") }

// Stop ends the TPM.
func (s *Server) Stop() error { panic("unimplemented") }

package main

import (
	"crypto/sha256"
	"fmt"
	"os"
	"path/filepath"
	"time"
)

// interval is the demo's quote_interval.
const interval = time.Second

const secret = "database password: correct horse battery staple\n"

// program is a file that the machine measures.
type program struct{ path, content string }

func (p program) digest() []byte {
	sum := sha256.Sum256([]byte(p.content))
	return sum[:]
}

var installed = []program{
	{"/usr/lib/systemd/systemd", "init"},
	{"/usr/bin/bash", "shell"},
	{"/usr/sbin/nginx", "web server"},
	{"/usr/lib/x86_64-linux-gnu/libc.so.6", "C library"},
	{"/usr/bin/keylime", "agent"},
}

var intruder = program{"/usr/local/bin/miner", "somebody else's work"}

// writePayload writes what the machine gets: a secret, a script to run with it, and an action for the day of a
// revocation.
func writePayload(s *stage) error {
	for name, text := range map[string]string{
		"secret.txt":              secret,
		"autorun.sh":              fmt.Sprintf("#!/bin/sh\ncp secret.txt %s\n", s.path("autorun.ran")),
		"action_list":             "local_action_isolate.sh\n",
		"local_action_isolate.sh": fmt.Sprintf("#!/bin/sh\ncp \"$1\" %s\n", s.path("action.ran")),
	} {
		if err := os.WriteFile(s.path("payload", name), []byte(text), 0o700); err != nil {
			return err
		}
	}
	return nil
}

// installCA brings the servers' CA certificate to the machine, as an operator does when installing an agent.
func (s *stage) installCA() error {
	cert, err := os.ReadFile(s.path("server", "cv_ca", "cacert.crt"))
	if err != nil {
		return err
	}
	if err := os.MkdirAll(s.path("agent", "cv_ca"), 0o700); err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(s.path("agent", "cv_ca"), "cacert.crt"), cert, 0o600)
}

package agent

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/rs/zerolog"
)

// payloads installs what the key shares opened and runs the payload's script, one payload after the other.
type payloads struct {
	installer installer
	script    string // plain file name; "" = none
	enabled   bool   // false: keys are derived, but payloads are not deployed
	revoker   *revoker
	agentID   string
	log       zerolog.Logger
	queue     chan delivery // holds one
}

// submit hands over a payload. One that still waits for its turn gives way to the newer one.
func (p *payloads) submit(d delivery) {
	if d.payload == "" {
		return
	}
	if !p.enabled {
		p.log.Warn().Msg("mTLS disabled and enable_insecure_payload is not True: payloads cannot be deployed")
		return
	}
	for {
		select {
		case p.queue <- d:
			return
		default:
		}
		select {
		case <-p.queue:
			p.log.Warn().Msg("a payload was replaced by a newer one before its turn came")
		default:
		}
	}
}

// run processes payloads until ctx ends.
func (p *payloads) run(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case d := <-p.queue:
			if err := p.process(ctx, d); err != nil {
				p.log.Error().Err(err).Str("audit", "payload").Msg("payload was not deployed in full")
			}
		}
	}
}

func (p *payloads) process(ctx context.Context, d delivery) error {
	if err := p.unpack(d); err != nil {
		return err
	}
	p.log.Info().Str("audit", "payload").Str("dir", p.unpacked()).Msg("payload deployed")
	return p.runScript(ctx)
}

func (p *payloads) unpacked() string { return filepath.Join(p.installer.secure, unpackedDir) }

// present reports whether a payload that was unpacked is still there.
func (p *payloads) present() bool {
	_, err := os.Lstat(filepath.Join(p.unpacked(), p.installer.keyName))
	return err == nil
}

// unpack installs the payload and makes its revocation certificate and actions those in force.
func (p *payloads) unpack(d delivery) error {
	p.revoker.payloadFiles.Lock()
	defer p.revoker.payloadFiles.Unlock()
	if err := p.installer.install(d.key, d.payload); err != nil {
		return err
	}
	dir, err := os.OpenRoot(p.unpacked())
	if err != nil {
		return fmt.Errorf("open the payload's directory: %w", err)
	}
	defer dir.Close()
	names, err := p.revoker.payloadActions()
	if err == nil {
		err = allowActions(dir, names)
	}
	return errors.Join(err, p.revoker.loadSigner())
}

// runScript runs the payload's script, if there is one. The shell finds its interpreter, or reads it itself.
func (p *payloads) runScript(ctx context.Context) error {
	if p.script == "" {
		return nil
	}
	dir, err := os.OpenRoot(p.unpacked())
	if err != nil {
		return fmt.Errorf("open the payload's directory: %w", err)
	}
	defer dir.Close()
	info, err := dir.Lstat(p.script)
	if errors.Is(err, fs.ErrNotExist) {
		p.log.Info().Str("script", p.script).Msg("payload has no script to run")
		return nil
	}
	if err != nil || !info.Mode().IsRegular() {
		return fmt.Errorf("payload script %s is no plain file: %w", p.script, err)
	}
	if err := dir.Chmod(p.script, 0o700); err != nil {
		return fmt.Errorf("make the payload's script executable: %w", err)
	}
	path := filepath.Join(p.unpacked(), p.script)
	p.log.Info().Str("audit", "payload").Str("script", path).Msg("running the payload's script")
	output, err := program{argv: []string{"/bin/sh", "-c", `"$0"`, path}, dir: p.unpacked(), agentID: p.agentID, timeout: scriptTimeout}.run(ctx)
	if err != nil {
		p.log.Error().Err(err).Str("script", path).Str("output", output).Msg("payload script failed")
		return nil
	}
	p.log.Info().Str("script", path).Str("output", output).Msg("payload script ended")
	return nil
}

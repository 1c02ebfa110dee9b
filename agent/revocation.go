package agent

import (
	"bytes"
	"context"
	"crypto"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"sync"

	"github.com/rs/zerolog"

	"keylime/internal/api"
	"keylime/internal/strictjson"
)

// actionListFile is the payload's list of revocation actions.
const actionListFile = "action_list"

// revocationTypes are the kinds of message that start actions.
var revocationTypes = map[string]bool{"revocation": true, "comm_error": true}

// revoker carries out revocations: it believes a message only with the signature of the certificate that came with
// the payload, carries out each message once, and one after the other.
type revoker struct {
	certFile   string
	configured []string // actions of the configuration, before those of the payload
	dirs       []string // where actions are looked for, in this order
	unpacked   string   // the payload's directory
	workDir    string
	agentID    string
	log        zerolog.Logger

	// payloadFiles is held for writing while the payload's directory is replaced.
	payloadFiles *sync.RWMutex
	queue        chan api.Notification

	mu     sync.Mutex
	signer *rsa.PublicKey // nil until a payload brought it
	seen   digests
}

// submit takes a message to be carried out later; false = too many wait already.
func (r *revoker) submit(n api.Notification) bool {
	select {
	case r.queue <- n:
		return true
	default:
		return false
	}
}

// run carries out messages until ctx ends.
func (r *revoker) run(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case n := <-r.queue:
			switch err := r.handle(ctx, n); {
			case errors.Is(err, errIgnored):
				r.log.Warn().Err(err).Str("audit", "revocation").Msg("revocation message ignored")
			case err != nil:
				r.log.Error().Err(err).Str("audit", "revocation").Msg("revocation was not carried out in full")
			}
		}
	}
}

// loadSigner reads the certificate that signs revocations. No certificate means that no message is believed.
func (r *revoker) loadSigner() error {
	key, err := readSigner(r.certFile)
	r.mu.Lock()
	defer r.mu.Unlock()
	r.signer = key
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

func readSigner(file string) (*rsa.PublicKey, error) {
	text, err := readBounded(file, maxCertificate)
	if err != nil {
		return nil, fmt.Errorf("read the revocation certificate: %w", err)
	}
	block, _ := pem.Decode(text)
	if block == nil || block.Type != "CERTIFICATE" {
		return nil, fmt.Errorf("revocation certificate %s holds no PEM certificate", file)
	}
	cert, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		return nil, fmt.Errorf("revocation certificate %s: %w", file, err)
	}
	key, ok := cert.PublicKey.(*rsa.PublicKey)
	if !ok {
		return nil, fmt.Errorf("revocation certificate %s: want an RSA key", file)
	}
	return key, nil
}

// errIgnored marks a message that is not to be believed or was carried out before.
var errIgnored = errors.New("ignored")

// handle checks one message and carries it out.
func (r *revoker) handle(ctx context.Context, n api.Notification) error {
	message, err := r.accept(n)
	if err != nil {
		return fmt.Errorf("%w: %w", errIgnored, err)
	}
	r.log.Info().Str("audit", "revocation").Interface("agent_id", message["agent_id"]).Interface("event_id", message["event_id"]).
		Msg("revocation received")
	r.payloadFiles.RLock()
	defer r.payloadFiles.RUnlock()
	names, err := r.payloadActions()
	if err != nil {
		return err
	}
	if names = append(slices.Clone(r.configured), names...); len(names) == 0 {
		return nil
	}
	file, err := writeMessage(r.workDir, message)
	if err != nil {
		return err
	}
	defer os.Remove(file)
	for _, name := range names {
		if err := r.execute(ctx, name, file); err != nil {
			return fmt.Errorf("revocation action %q, no later one is started: %w", name, err)
		}
	}
	return nil
}

// accept checks a message and returns it decoded.
func (r *revoker) accept(n api.Notification) (map[string]any, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.signer == nil {
		return nil, errors.New("no payload has brought a revocation certificate yet, so no message can be believed")
	}
	if err := verifyRevocation(r.signer, n); err != nil {
		return nil, err
	}
	if r.seen.has(n.Msg) {
		return nil, errors.New("message was carried out before")
	}
	message, err := decodeRevocation(n.Msg)
	if err != nil {
		return nil, err
	}
	r.seen.add(n.Msg)
	return message, nil
}

// verifyRevocation checks the RSA-PSS signature with SHA-256 over the exact bytes of the message.
func verifyRevocation(signer *rsa.PublicKey, n api.Notification) error {
	if n.Signature == "" {
		return errors.New("message is not signed")
	}
	signature, err := decodeBase64(n.Signature)
	if err != nil {
		return fmt.Errorf("signature: %w", err)
	}
	digest := sha256.Sum256([]byte(n.Msg))
	options := &rsa.PSSOptions{SaltLength: rsa.PSSSaltLengthAuto, Hash: crypto.SHA256}
	if err := rsa.VerifyPSS(signer, crypto.SHA256, digest[:], signature, options); err != nil {
		return errors.New("signature is not by the revocation certificate of this agent's payload")
	}
	return nil
}

const revocationDepth = 32

func decodeRevocation(text string) (map[string]any, error) {
	if err := strictjson.Check([]byte(text), revocationDepth); err != nil {
		return nil, fmt.Errorf("message is not valid JSON: %w", err)
	}
	var message map[string]any
	decoder := json.NewDecoder(bytes.NewReader([]byte(text)))
	decoder.UseNumber()
	if err := decoder.Decode(&message); err != nil {
		return nil, fmt.Errorf("message is no JSON object: %w", err)
	}
	kind, _ := message["type"].(string)
	if !revocationTypes[kind] {
		return nil, fmt.Errorf("message has the unknown type %q", kind)
	}
	return message, nil
}

// payloadActions are the names in the payload's action list, if it has one.
func (r *revoker) payloadActions() ([]string, error) {
	list, err := readBounded(filepath.Join(r.unpacked, actionListFile), maxActionList)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read the payload's action list: %w", err)
	}
	return parseActions(string(list))
}

func (r *revoker) execute(ctx context.Context, name, messageFile string) error {
	path, err := findAction(name, r.dirs)
	if err != nil {
		return err
	}
	r.log.Info().Str("audit", "revocation").Str("path", path).Msg("Executing revocation action " + name)
	output, err := runAction(ctx, path, messageFile, r.workDir, r.agentID)
	r.log.Info().Str("action", name).Str("output", output).Bool("ok", err == nil).Msg("revocation action ended")
	return err
}

// writeMessage puts the decoded message, keys sorted, into a new file that only this user may read.
func writeMessage(dir string, message map[string]any) (name string, err error) {
	file, err := os.CreateTemp(dir, ".tmp") // CreateTemp makes files with mode 0600
	if err != nil {
		return "", fmt.Errorf("write the revocation for its actions: %w", err)
	}
	encoder := json.NewEncoder(file)
	encoder.SetEscapeHTML(false)
	err = errors.Join(encoder.Encode(message), file.Close())
	if err != nil {
		os.Remove(file.Name())
		return "", fmt.Errorf("write the revocation for its actions: %w", err)
	}
	return file.Name(), nil
}

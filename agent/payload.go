package agent

import (
	"crypto/aes"
	"crypto/cipher"
	"encoding/base64"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/rs/zerolog"
)

// payloadIV is the length of a payload's initialisation vector (wire: 16 bytes, so GCM derives its counter block with
// GHASH instead of taking the vector as it is).
const payloadIV = 16

// decryptPayload opens base64(IV ‖ AES-GCM ciphertext ‖ tag) with the bootstrap key of 16 or 32 bytes.
func decryptPayload(key []byte, text string) ([]byte, error) {
	sealed, err := decodeBase64(text)
	if err != nil {
		return nil, fmt.Errorf("payload: %w", err)
	}
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, fmt.Errorf("payload key: %w", err)
	}
	gcm, err := cipher.NewGCMWithNonceSize(block, payloadIV)
	if err != nil {
		return nil, fmt.Errorf("payload cipher: %w", err)
	}
	if len(sealed) < payloadIV+gcm.Overhead() {
		return nil, fmt.Errorf("payload has %d bytes, fewer than its vector and tag", len(sealed))
	}
	plain, err := gcm.Open(nil, sealed[:payloadIV], sealed[payloadIV:], nil)
	if err != nil {
		return nil, errors.New("payload does not decrypt with the derived key: it was altered or made for another key")
	}
	return plain, nil
}

// decodeBase64 reads base64 without the line breaks that the standard library skips.
func decodeBase64(text string) ([]byte, error) {
	if strings.ContainsAny(text, "\r\n") {
		return nil, errors.New("base64 text holds a line break")
	}
	return base64.StdEncoding.Strict().DecodeString(text)
}

// The secure directory holds what a payload brought.
const unpackedDir = "unzipped"

// installer puts decrypted payloads into the secure directory. One installation runs at a time.
type installer struct {
	secure      string // the tmpfs
	keyName     string // file for the bootstrap key
	payloadName string // file for the decrypted payload
	extract     bool
	log         zerolog.Logger
}

// install decrypts a payload and replaces the unpacked directory by the key, the payload and, if it is an archive,
// its files. The payload is decrypted and checked whole before the directory of the one before is touched; when
// writing fails, the directory is left empty.
func (in installer) install(key []byte, text string) error {
	plain, err := decryptPayload(key, text)
	if err != nil {
		return err
	}
	secure, err := os.OpenRoot(in.secure)
	if err != nil {
		return fmt.Errorf("open the secure directory: %w", err)
	}
	defer secure.Close()
	write := func(dir *os.Root) error { return in.writeRaw(dir, key, plain) }
	if in.extract {
		archive, err := openArchive(plain)
		switch {
		case errors.Is(err, errNotZip):
			in.log.Info().Msg("payload is no zip archive and is delivered as one file")
		case err != nil:
			return err
		default:
			write = func(dir *os.Root) error {
				if err := in.writeRaw(dir, key, plain); err != nil {
					return err
				}
				return unpack(archive, dir)
			}
		}
	}
	return replaceDir(secure, unpackedDir, write)
}

func (in installer) writeRaw(dir *os.Root, key, plain []byte) error {
	if err := dir.WriteFile(in.keyName, key, 0o600); err != nil {
		return fmt.Errorf("write the derived key: %w", err)
	}
	if err := dir.WriteFile(in.payloadName, plain, 0o600); err != nil {
		return fmt.Errorf("write the payload (is secure_size too small?): %w", err)
	}
	return nil
}

// replaceDir makes a directory anew and fills it; if that fails, it leaves the directory empty.
func replaceDir(parent *os.Root, name string, fill func(*os.Root) error) error {
	if err := remake(parent, name); err != nil {
		return err
	}
	dir, err := parent.OpenRoot(name)
	if err != nil {
		return fmt.Errorf("open %s: %w", filepath.Join(parent.Name(), name), err)
	}
	defer dir.Close()
	if err := fill(dir); err != nil {
		return errors.Join(err, remake(parent, name))
	}
	return nil
}

func remake(parent *os.Root, name string) error {
	if err := parent.RemoveAll(name); err != nil {
		return fmt.Errorf("remove the payload before: %w", err)
	}
	if err := parent.Mkdir(name, 0o700); err != nil {
		return fmt.Errorf("make the payload's directory: %w", err)
	}
	return nil
}

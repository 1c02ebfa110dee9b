package policytool

import (
	"errors"
	"fmt"
	"os"

	"github.com/rs/zerolog"

	"keylime/ima"
)

// addKeys adds keys from files to those that verify files' signatures.
func (d *document) addKeys(files []string, log zerolog.Logger) error {
	if len(files) == 0 {
		return nil
	}
	ring, unusable, err := ima.ParseKeyring(d.keys)
	if err != nil {
		return fmt.Errorf("verification-keys of the policy to begin with: %w", err)
	}
	for _, u := range unusable {
		log.Warn().Err(u).Msg("a verification key of the policy to begin with cannot be used, and is left out")
	}
	ring = ring.With(readKeys(files, log)...)
	if len(ring.Keys()) > 0 {
		d.keys = ring.String()
	}
	return nil
}

// readKeys reads the keys in files. A file without a usable key is logged as an error and left out, as upstream does.
func readKeys(files []string, log zerolog.Logger) []*ima.Key {
	var keys []*ima.Key
	for _, name := range files {
		key, err := readKey(name)
		if err != nil {
			log.Error().Msgf("File '%s' does not have a supported key: %v", name, err)
			continue
		}
		keys = append(keys, key)
	}
	return keys
}

const maxKeyFile = 1 << 20

func readKey(name string) (*ima.Key, error) {
	info, err := os.Stat(name)
	if err != nil {
		return nil, err
	}
	if info.Size() > maxKeyFile {
		return nil, errors.New("too large for a key")
	}
	text, err := os.ReadFile(name)
	if err != nil {
		return nil, err
	}
	return ima.ParseKey(text)
}

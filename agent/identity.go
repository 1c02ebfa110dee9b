package agent

import (
	"context"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"regexp"
	"strings"

	"keylime/internal/api"
	"keylime/tpm"
)

// idSources are what an agent id can be made from.
type idSources struct {
	ekHash string                                // see ekHash
	random io.Reader                             // for a generated id
	keep   string                                // file that keeps a generated id
	fqdn   func(context.Context) (string, error) // the machine's name
}

// The machine's UUID as the firmware's SMBIOS table has it; only root may read it.
const productUUID = "/sys/class/dmi/id/product_uuid"

// generatedID is the file that keeps a generated id. It belongs to one TPM, so that a disk image started on many
// machines gives each its own id.
const generatedID = "agent_id.json"

// resolveID makes the agent's id of the option uuid: a keyword, or the id as it stands. There is no fallback: an agent
// that invents an id at each start cannot be enrolled.
func resolveID(ctx context.Context, setting string, src idSources) (string, error) {
	var id string
	var err error
	switch setting {
	case "hash_ek":
		id = src.ekHash
	case "generate":
		id, err = generatedOnce(src)
	case "hostname":
		id, err = src.fqdn(ctx)
	default:
		id = setting
	}
	if err == nil && !api.ValidAgentID(id) {
		err = fmt.Errorf("%q is no agent id: want 1 to 80 of the characters A-Z a-z 0-9 _ . -", id)
	}
	if err != nil {
		return "", fmt.Errorf("agent id from uuid = %q: %w", setting, err)
	}
	return id, nil
}

// ekHash is the hex SHA-256 of the EK's public key as PEM text: 64 characters a line, the line end after the last
// line included.
func ekHash(ek *tpm.Public) (string, error) {
	der, err := x509.MarshalPKIXPublicKey(ek.Key())
	if err != nil {
		return "", fmt.Errorf("hash of the EK: %w", err)
	}
	digest := sha256.Sum256(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}))
	return hex.EncodeToString(digest[:]), nil
}

var uuidForm = regexp.MustCompile(`^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$`)

// parseUUID reads a UUID with or without hyphens, in braces or as a URN, and returns its normal form.
func parseUUID(s string) (string, bool) {
	s = strings.ToLower(strings.TrimSpace(s))
	s = strings.TrimPrefix(s, "urn:uuid:")
	if inner, ok := strings.CutPrefix(s, "{"); ok {
		if s, ok = strings.CutSuffix(inner, "}"); !ok {
			return "", false
		}
	}
	if len(s) == 32 && !strings.Contains(s, "-") {
		s = strings.Join([]string{s[:8], s[8:12], s[12:16], s[16:20], s[20:]}, "-")
	}
	return s, uuidForm.MatchString(s)
}

// generatedOnce returns the id that was generated for this TPM before, or a new random one (UUID version 4).
func generatedOnce(src idSources) (string, error) {
	var kept struct {
		ID     string `json:"id"`
		EKHash string `json:"ek_hash"`
	}
	text, err := readBounded(src.keep, maxIdentityFile)
	switch {
	case errors.Is(err, fs.ErrNotExist):
	case err != nil:
		return "", fmt.Errorf("read the id generated before: %w", err)
	default:
		if err := json.Unmarshal(text, &kept); err != nil {
			return "", fmt.Errorf("%s is damaged, remove it to get a new id: %w", src.keep, err)
		}
		if id, ok := parseUUID(kept.ID); ok && kept.EKHash == src.ekHash {
			return id, nil
		}
	}
	kept.EKHash = src.ekHash
	if kept.ID, err = randomUUID(src.random); err != nil {
		return "", err
	}
	if text, err = json.Marshal(kept); err != nil {
		return "", err
	}
	return kept.ID, writePrivate(src.keep, text)
}

func randomUUID(random io.Reader) (string, error) {
	var b [16]byte
	if _, err := io.ReadFull(random, b[:]); err != nil {
		return "", fmt.Errorf("generate an id: %w", err)
	}
	b[6] = b[6]&0x0f | 0x40 // version 4 (RFC 9562)
	b[8] = b[8]&0x3f | 0x80
	id, _ := parseUUID(hex.EncodeToString(b[:]))
	return id, nil
}

// replaceDMI puts the firmware's UUID in the place of the keyword dmidecode; it must be called before privileges are
// dropped. Other settings stay.
func replaceDMI(setting, file string) (string, error) {
	if setting != "dmidecode" {
		return setting, nil
	}
	text, err := readBounded(file, maxIdentityFile)
	if err != nil {
		return "", fmt.Errorf("agent id from uuid = %q: %w", setting, err)
	}
	id, ok := parseUUID(string(text))
	if !ok {
		return "", fmt.Errorf("agent id from uuid = %q: %s holds no UUID", setting, file)
	}
	return id, nil
}

// fullHostname is the machine's name with its domain, if it has one.
func fullHostname(ctx context.Context) (string, error) {
	name, err := os.Hostname()
	if err != nil || strings.Contains(name, ".") {
		return strings.ToLower(name), err
	}
	ctx, cancel := context.WithTimeout(ctx, hostLookupLimit)
	defer cancel()
	addresses, err := net.DefaultResolver.LookupHost(ctx, name)
	if err != nil {
		return strings.ToLower(name), nil
	}
	for _, address := range addresses {
		full, err := net.DefaultResolver.LookupAddr(ctx, address)
		if err != nil {
			continue
		}
		for _, candidate := range full {
			if candidate = strings.TrimSuffix(candidate, "."); strings.HasPrefix(candidate, name+".") {
				return strings.ToLower(candidate), nil
			}
		}
	}
	return strings.ToLower(name), nil
}

package tenant

import (
	"encoding/base64"
	"os"
	"strings"
)

// delivery is what an agent is given, and what the verifier must know of it. The zero value delivers nothing.
type delivery struct {
	keys          *shares // nil: no key, and so no payload
	payload       string  // encrypted, base64; "" = none
	revocationKey string  // PEM of the key that signs revocation messages to this agent; "" = unsigned
	metadata      string  // JSON text
}

// prepareDelivery makes the delivery that the options ask for. It may create certificates; it asks nothing of anyone.
func (t *tenant) prepareDelivery(o *options) (delivery, error) {
	d := delivery{metadata: "{}"}
	var err error
	switch {
	case o.file != "":
		err = t.deliverFile(&d, o.file)
	case o.keyFile != "":
		err = t.deliverSealed(&d, o.keyFile, o.payload)
	case o.certDir != "":
		err = t.deliverCertificates(&d, o)
	}
	if err == nil && len(d.payload) > t.cfg.MaxPayloadSize {
		err = failure(exitFailed, "deliver less, or raise max_payload_size of [tenant]",
			"the payload is %d bytes when encrypted; max_payload_size is %d", len(d.payload), t.cfg.MaxPayloadSize)
	}
	return d, err
}

// deliverFile encrypts a file with a new key.
func (t *tenant) deliverFile(d *delivery, name string) error {
	plaintext, err := readFile(name, int64(t.cfg.MaxPayloadSize))
	if err != nil {
		return failure(exitFailed, "check --file and max_payload_size of [tenant]", "payload: %w", err)
	}
	return t.seal(d, plaintext)
}

// seal encrypts plaintext with a new key.
func (t *tenant) seal(d *delivery, plaintext []byte) error {
	keys, err := newShares(t.random)
	if err != nil {
		return err
	}
	d.keys = &keys
	d.payload, err = keys.seal(t.random, plaintext)
	return err
}

// deliverSealed takes a key made before, and a payload encrypted with it, if any.
func (t *tenant) deliverSealed(d *delivery, keyFile, payloadFile string) error {
	text, err := readFile(keyFile, 4<<10)
	if err != nil {
		return failure(exitFailed, "check --key", "key file: %w", err)
	}
	if info, err := os.Stat(keyFile); err == nil && info.Mode().Perm()&0o077 != 0 {
		t.warn("others can read the key file %s: chmod 600 it", keyFile)
	}
	keys, err := parseShares(text)
	if err != nil {
		return failure(exitFailed, "it has three lines, as `keylime_userdata_encrypt` writes them", "key file %s: %w", keyFile, err)
	}
	d.keys = &keys
	if payloadFile == "" {
		return nil
	}
	sealed, err := readFile(payloadFile, int64(t.cfg.MaxPayloadSize))
	if err != nil {
		return failure(exitFailed, "check --payload and max_payload_size of [tenant]", "payload: %w", err)
	}
	d.payload = strings.TrimSpace(string(sealed))
	raw, err := base64.StdEncoding.DecodeString(d.payload)
	if err != nil || len(raw) < ivSize+tagSize {
		return failure(exitFailed, "give what `keylime_userdata_encrypt` wrote, or use --file to encrypt a file now", "payload %s: not base64 of an encrypted payload", payloadFile)
	}
	return nil
}

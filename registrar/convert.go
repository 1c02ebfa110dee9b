package registrar

import (
	"bytes"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"fmt"
	"strings"

	"keylime/internal/api"
	"keylime/store"
)

// mtlsDisabled is what an agent that serves plain HTTP registers in place of a certificate.
const mtlsDisabled = "disabled"

// maxChain bounds the certificates that follow the EK certificate: what the NV indices set aside for them can hold.
const maxChain = 16

// registrationFromAPI decodes a request. Fields that were not sent are those of known, the id's active registration;
// a field that is sent empty is absent.
func registrationFromAPI(id string, req api.RegisterRequest, known store.Registration) (store.Registration, error) {
	r := store.Registration{ID: id, Identity: known.Identity, IP: known.IP, Port: known.Port, MTLSCert: known.MTLSCert}
	i := &r.Identity
	var d decoding
	d.field("ek_tpm", req.EKTPM, func(s string) (err error) { i.EKTPM, err = octets(s); return })
	d.field("aik_tpm", req.AIKTPM, func(s string) (err error) { i.AIKTPM, err = octets(s); return })
	d.field("iak_tpm", req.IAKTPM, func(s string) (err error) { i.IAKTPM, err = octets(s); return })
	d.field("idevid_tpm", req.IDevIDTPM, func(s string) (err error) { i.IDevIDTPM, err = octets(s); return })
	d.field("ekcert", req.EKCert, func(s string) (err error) { i.EKCert, i.EKChain, err = certificates(s); return })
	d.field("iak_cert", req.IAKCert, func(s string) (err error) { i.IAKCert, _, err = certificates(s); return })
	d.field("idevid_cert", req.IDevIDCert, func(s string) (err error) { i.IDevIDCert, _, err = certificates(s); return })
	d.field("ip", req.IP, func(s string) (err error) { r.IP, err = contactIP(s); return })
	d.field("mtls_cert", req.MTLSCert, func(s string) (err error) { r.MTLSCert, err = mtlsCert(s); return })
	if port := string(req.Port); port != "" && port != "null" {
		n, ok := api.ParsePort(req.Port)
		if !ok {
			d.fail("port", errors.New("want a number from 1 to 65535"))
		}
		r.Port = n
	}
	return r, d.err
}

// decoding keeps the first error of a number of fields.
type decoding struct{ err error }

func (d *decoding) field(name string, value *string, decode func(string) error) {
	if value == nil {
		return
	}
	if err := decode(*value); err != nil {
		d.fail(name, err)
	}
}

func (d *decoding) fail(name string, err error) {
	if d.err == nil {
		d.err = fmt.Errorf("%s: %w", name, err)
	}
}

// octets decodes base64.
func octets(s string) ([]byte, error) { return base64.StdEncoding.Strict().DecodeString(s) }

// certificates decodes PEM, leaf first, or base64 DER. The bytes are kept as they came: a certificate that was encoded
// anew would no longer bear its signature.
func certificates(s string) (leaf []byte, chain [][]byte, err error) {
	if s == "" {
		return nil, nil, nil
	}
	if !strings.Contains(s, "-----BEGIN ") {
		leaf, err = octets(s)
		return leaf, nil, err
	}
	for rest := []byte(s); ; {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil {
			if len(bytes.TrimSpace(rest)) > 0 {
				return nil, nil, errors.New("text that is no PEM follows")
			}
			break
		}
		switch {
		case block.Type != "CERTIFICATE" || len(block.Bytes) == 0:
			return nil, nil, errors.New("PEM holds something else than certificates")
		case leaf == nil:
			leaf = block.Bytes
		case len(chain) == maxChain:
			return nil, nil, fmt.Errorf("more than %d certificates in the chain", maxChain)
		default:
			chain = append(chain, block.Bytes)
		}
	}
	if leaf == nil {
		return nil, nil, errors.New("no certificate in it")
	}
	return leaf, chain, nil
}

// mtlsCert reads the certificate of the agent's listener into PEM of one certificate.
func mtlsCert(s string) (string, error) {
	if strings.EqualFold(s, mtlsDisabled) {
		return mtlsDisabled, nil
	}
	der, _, err := certificates(s)
	if err != nil || der == nil {
		return "", err
	}
	if err := checkListenerCert(der); err != nil {
		return "", err
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})), nil
}

// agentToAPI is the directory's entry of an active registration.
func agentToAPI(r store.Registration) api.RegistrarAgent {
	encode := base64.StdEncoding.EncodeToString
	a := api.RegistrarAgent{
		AgentID: r.ID, EKTPM: encode(r.Identity.EKTPM), AIKTPM: encode(r.Identity.AIKTPM), RegCount: r.RegCount,
		EKCert: orNull(encode(r.Identity.EKCert)), MTLSCert: orNull(r.MTLSCert), IP: orNull(r.IP), Port: orNull(r.Port),
	}
	for _, der := range r.Identity.EKChain {
		a.EKChain = append(a.EKChain, encode(der))
	}
	return a
}

// orNull is nil for what is absent.
func orNull[T comparable](v T) *T {
	var absent T
	if v == absent {
		return nil
	}
	return &v
}

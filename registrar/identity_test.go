package registrar

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"encoding/pem"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/rs/zerolog"

	"keylime/internal/api"
	"keylime/internal/config"
	"keylime/internal/fleet"
	"keylime/tpm"
)

// edited returns a TPM2B_PUBLIC with bytes of its TPMT_PUBLIC replaced; the size is set anew.
func edited(public []byte, from, to int, with ...byte) []byte {
	area := append(append(append([]byte{}, public[2:2+from]...), with...), public[2+to:]...)
	return append(binary.BigEndian.AppendUint16(nil, uint16(len(area))), area...)
}

// Offsets in a TPMT_PUBLIC without an authPolicy (TPM 2.0 part 2, "TPMT_PUBLIC").
const (
	offType, offAttributes, offScheme = 0, 4, 12
)

// NT-01, NT-02, NT-03
func TestUnfitAKsGetNoChallenge(t *testing.T) {
	t.Parallel()
	s := start(t, nil)
	genuine := newMachine(t, "agent")
	attributes := func(a uint32) []byte {
		return edited(genuine.AKPublic(), offAttributes, offAttributes+4, binary.BigEndian.AppendUint32(nil, a)...)
	}
	const good = fleet.AKAttributes
	tests := []struct {
		name   string
		ak     []byte
		reason string
	}{
		{"not restricted", attributes(good &^ (1 << 16)), "restricted"},
		{"not fixed to the TPM", attributes(good &^ (1 << 1)), "fixedTPM"},
		{"not fixed to its parent", attributes(good &^ (1 << 4)), "fixedParent"},
		{"made outside the TPM", attributes(good &^ (1 << 5)), "sensitiveDataOrigin"},
		{"does not sign", attributes(good &^ (1 << 18)), "sign"},
		{"storage key", attributes(good&^(1<<18) | 1<<17), "sign"},
		{"signs and decrypts", attributes(good | 1<<17), "decrypt"},
		{"no scheme", edited(genuine.AKPublic(), offScheme, offScheme+4, 0x00, 0x10), "scheme"},
		{"keyed hash", edited(genuine.AKPublic(), offType, offType+2, 0x00, 0x08), "type"},
		{"symmetric cipher", edited(genuine.AKPublic(), offType, offType+2, 0x00, 0x25), "type"},
		{"endorsement key", genuine.EKPublic(), "restricted"},
		{"cut", genuine.AKPublic()[:40], "aik_tpm"},
		{"followed by a byte", append(genuine.AKPublic(), 0), "aik_tpm"},
		{"nothing", nil, "aik_tpm is missing"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			req := genuine.request()
			req.AIKTPM = b64(tt.ak)
			id := strings.ReplaceAll(tt.name, " ", "-")
			if msg := s.refused(t, id, req, 400); !strings.Contains(msg, textInvalid) || tt.reason != "restricted" && !strings.Contains(msg, tt.reason) {
				t.Errorf("refused with %q, want %q in it", msg, tt.reason)
			}
			if _, err := s.db.Pending(t.Context(), id); err == nil {
				t.Error("it was stored")
			}
		})
	}
	s.register(t, genuine, genuine.request())
}

// NT-18
func TestUnfitEKs(t *testing.T) {
	t.Parallel()
	maker, err := fleet.NewMaker(rand.Reader, time.Now().Add(-time.Hour), time.Now().Add(time.Hour))
	if err != nil {
		t.Fatal(err)
	}
	s := start(t, nil)
	m, other := newMachine(t, "agent"), newMachine(t, "other")
	certificate := func(of *machine) []byte {
		der, err := maker.Certify(parse(t, of.EKPublic()), time.Now().Add(-time.Hour), time.Now().Add(time.Hour))
		if err != nil {
			t.Fatal(err)
		}
		return der
	}
	attributes := binary.BigEndian.Uint32(m.EKPublic()[2+offAttributes:])
	with := func(a uint32) []byte {
		return edited(m.EKPublic(), offAttributes, offAttributes+4, binary.BigEndian.AppendUint32(nil, a)...)
	}
	for name, change := range map[string]func(*api.RegisterRequest){
		"certificate of another key":    func(r *api.RegisterRequest) { r.EKCert = b64(certificate(other)) },
		"same key, not restricted":      func(r *api.RegisterRequest) { r.EKTPM, r.EKCert = b64(with(attributes&^(1<<16))), b64(certificate(m)) },
		"same key, may sign":            func(r *api.RegisterRequest) { r.EKTPM, r.EKCert = b64(with(attributes|1<<18)), b64(certificate(m)) },
		"same key, may leave the TPM":   func(r *api.RegisterRequest) { r.EKTPM, r.EKCert = b64(with(attributes&^(1<<1))), b64(certificate(m)) },
		"the AK for the EK":             func(r *api.RegisterRequest) { r.EKTPM = b64(m.AKPublic()) },
		"no EK":                         func(r *api.RegisterRequest) { r.EKTPM = nil },
		"EK sent empty":                 func(r *api.RegisterRequest) { r.EKTPM = text("") },
		"certificate that is none":      func(r *api.RegisterRequest) { r.EKCert = text("AAAA") },
		"certificate that is no base64": func(r *api.RegisterRequest) { r.EKCert = text("***") },
		"PEM without a certificate": func(r *api.RegisterRequest) {
			r.EKCert = text("-----BEGIN CERTIFICATE-----\n-----END CERTIFICATE-----\n")
		},
		"PEM of a key": func(r *api.RegisterRequest) {
			r.EKCert = text(string(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: []byte{1}})))
		},
		"text after the PEM":                   func(r *api.RegisterRequest) { r.EKCert = text(pemOf(certificate(m)) + "x") },
		"17 certificates after the first":      func(r *api.RegisterRequest) { r.EKCert = text(strings.Repeat(pemOf(certificate(m)), 18)) },
		"listener's certificate that is none":  func(r *api.RegisterRequest) { r.MTLSCert = text("AAAA") },
		"listener's certificate that is a key": func(r *api.RegisterRequest) { r.MTLSCert = b64(m.EKPublic()) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			req := m.request()
			change(&req)
			s.refused(t, "unfit", req, 400)
		})
	}
	req := m.request()
	req.EKCert = b64(certificate(m))
	s.register(t, m, req)
}

func pemOf(ders ...[]byte) string {
	var b strings.Builder
	for _, der := range ders {
		b.Write(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))
	}
	return b.String()
}

// NT-1A
func TestMalformedCertificates(t *testing.T) {
	t.Parallel()
	maker, err := fleet.NewMaker(rand.Reader, time.Now().Add(-time.Hour), time.Now().Add(time.Hour))
	if err != nil {
		t.Fatal(err)
	}
	for _, action := range []string{"warn", "ignore", "reject"} {
		t.Run(action, func(t *testing.T) {
			t.Parallel()
			s := start(t, func(c *config.Registrar) { c.MalformedCertAction = action })
			m := newMachine(t, "agent")
			der, err := maker.Certify(parse(t, m.EKPublic()), time.Now().Add(-time.Hour), time.Now().Add(time.Hour))
			if err != nil {
				t.Fatal(err)
			}
			padded := append(der, make([]byte, 64)...) // as read from an NV index of fixed size
			req := m.request()
			req.EKCert = text(pemOf(padded, der))
			if action == "reject" {
				if msg := s.refused(t, m.id, req, 400); !strings.Contains(msg, "malformed_cert_action") {
					t.Errorf("refused with %s", msg)
				}
				return
			}
			s.register(t, m, req)
			a := s.record(t, m.id)
			if *a.EKCert != *b64(padded) || len(a.EKChain) != 1 || a.EKChain[0] != *b64(der) {
				t.Error("the certificate is not kept byte for byte")
			}
			if warned := strings.Contains(s.log.String(), "Certificate is not strict DER"); warned != (action == "warn") {
				t.Errorf("warned: %v", warned)
			}
		})
	}
}

// device is a machine with an IAK and an IDevID of a maker.
type device struct {
	*machine
	iak, idevid         *fleet.SoftTPM
	iakCert, idevidCert []byte
}

func newDevice(t *testing.T, id string, maker *fleet.Maker, m fleet.Model) *device {
	t.Helper()
	d := &device{machine: modelled(t, id, m), iak: modelled(t, id, m).SoftTPM, idevid: modelled(t, id, m).SoftTPM}
	for _, c := range []struct {
		key  *fleet.SoftTPM
		cert *[]byte
	}{{d.iak, &d.iakCert}, {d.idevid, &d.idevidCert}} {
		var err error
		if *c.cert, err = maker.Certify(parse(t, c.key.AKPublic()), time.Now().Add(-time.Hour), time.Now().Add(time.Hour)); err != nil {
			t.Fatal(err)
		}
	}
	return d
}

// request is the machine's, with the IAK's certification of its AK over that qualifying data.
func (d *device) request(t *testing.T, qualifying []byte) api.RegisterRequest {
	t.Helper()
	req := d.machine.request()
	req.IAKTPM, req.IAKCert = b64(d.iak.AKPublic()), b64(d.iakCert)
	req.IDevIDTPM, req.IDevIDCert = b64(d.idevid.AKPublic()), b64(d.idevidCert)
	attest, signature, err := d.iak.Certify(qualifying, parse(t, d.AKPublic()))
	if err != nil {
		t.Fatal(err)
	}
	req.IAKAttest, req.IAKSign = b64(attest), b64(signature)
	return req
}

// NT-04
func TestDeviceIdentity(t *testing.T) {
	t.Parallel()
	from, to := time.Now().Add(-time.Hour), time.Now().Add(time.Hour)
	maker, err := fleet.NewMaker(rand.Reader, from, to)
	if err != nil {
		t.Fatal(err)
	}
	stranger, err := fleet.NewMaker(rand.Reader, from, to)
	if err != nil {
		t.Fatal(err)
	}
	certStore := t.TempDir()
	if err := os.WriteFile(filepath.Join(certStore, "maker.pem"), maker.PEM(), 0o600); err != nil {
		t.Fatal(err)
	}
	s := start(t, func(c *config.Registrar) { c.TPMCertStore, c.TPMIdentity = certStore, "iak_idevid" })
	digest := func(id string) []byte { d := sha256.Sum256([]byte(id)); return d[:] }

	model := fleet.Model{Alg: "ecc256"}
	known := newDevice(t, "known", maker, model)
	s.register(t, known.machine, known.request(t, digest(known.id)))
	older := newDevice(t, "older", maker, model)
	s.register(t, older.machine, older.request(t, []byte(older.id))) // qualifying data before API 2.6
	wide := newDevice(t, "wide", maker, fleet.Model{Alg: "ecc384", Hash: tpm.SHA384})
	s.register(t, wide.machine, wide.request(t, digest(wide.id)))
	for _, line := range []string{"IDevID and IAK received", "Agent known AIK verified with IAK"} {
		if !strings.Contains(s.log.String(), line) {
			t.Errorf("no %q in the log", line)
		}
	}

	t.Run("IAK replaced alone", func(t *testing.T) {
		other := newDevice(t, known.id, maker, model)
		swapped := *known
		swapped.iak, swapped.iakCert = other.iak, other.iakCert
		s.refused(t, known.id, swapped.request(t, digest(known.id)), 403)
		both := known.request(t, digest(known.id))
		both.IDevIDTPM, both.IDevIDCert = b64(other.idevid.AKPublic()), b64(other.idevidCert)
		s.refused(t, known.id, both, 403)
	})
	fresh := newDevice(t, "fresh", maker, model)
	foreign := newDevice(t, "fresh", stranger, model)
	quote, err := fresh.iak.Quote(digest(fresh.id), 0, tpm.SHA256)
	if err != nil {
		t.Fatal(err)
	}
	for name, change := range map[string]func(*api.RegisterRequest){
		"certification of another AK": func(r *api.RegisterRequest) {
			attest, signature, err := fresh.iak.Certify(digest(fresh.id), parse(t, known.AKPublic()))
			if err != nil {
				t.Fatal(err)
			}
			r.IAKAttest, r.IAKSign = b64(attest), b64(signature)
		},
		"a quote for a certification":      func(r *api.RegisterRequest) { r.IAKAttest, r.IAKSign = b64(quote.Attest), b64(quote.Signature) },
		"qualifying data of another agent": func(r *api.RegisterRequest) { *r = fresh.request(t, digest("known")) },
		"no qualifying data":               func(r *api.RegisterRequest) { *r = fresh.request(t, nil) },
		"signature by another key":         func(r *api.RegisterRequest) { r.IAKSign = b64(quote.Signature) },
		"no certification":                 func(r *api.RegisterRequest) { r.IAKAttest = nil },
		"no signature":                     func(r *api.RegisterRequest) { r.IAKSign = nil },
		"certification that is no base64":  func(r *api.RegisterRequest) { r.IAKAttest = text("!") },
		"no IDevID":                        func(r *api.RegisterRequest) { r.IDevIDTPM, r.IDevIDCert = nil, nil },
		"no IAK certificate":               func(r *api.RegisterRequest) { r.IAKCert = nil },
		"neither":                          func(r *api.RegisterRequest) { *r = fresh.machine.request() },
		"IAK certificate of another key":   func(r *api.RegisterRequest) { r.IAKCert = b64(fresh.idevidCert) },
		"certificates of an unknown maker": func(r *api.RegisterRequest) { *r = foreign.request(t, digest(fresh.id)) },
		"IDevID certificate of another maker": func(r *api.RegisterRequest) {
			r.IDevIDTPM, r.IDevIDCert = b64(foreign.idevid.AKPublic()), b64(foreign.idevidCert)
		},
		"IAK that does not attest": func(r *api.RegisterRequest) { r.IAKTPM = b64(fresh.EKPublic()) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			req := fresh.request(t, digest(fresh.id))
			change(&req)
			s.refused(t, fresh.id, req, 400)
		})
	}
}

// NT-97
func TestMissingCertificateStoreIsNamedWhenItIsNeeded(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	cfg := configuration(t, dir, "KEYLIME_REGISTRAR_TPM_IDENTITY=iak_idevid")
	if _, err := New(cfg, nil, zerolog.Nop()); err == nil || !strings.Contains(err.Error(), "tpm_cert_store") {
		t.Errorf("New = %v", err)
	}
}

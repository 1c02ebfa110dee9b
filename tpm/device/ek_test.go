package device_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-tpm/tpm2"
	"github.com/google/go-tpm/tpm2/transport"

	"keylime/internal/fleet"
	"keylime/tpm"
	"keylime/tpm/device"
)

// commands runs TPM commands that set a test's scene.
func commands(t *testing.T, dev *device.TPM, f func(transport.TPM) error) {
	t.Helper()
	if err := dev.Commands(t.Context(), "set the scene", f); err != nil {
		t.Fatal(err)
	}
}

// writeNV defines an index as the platform's and writes it.
func writeNV(t *testing.T, dev *device.TPM, index tpm2.TPMHandle, content []byte, anyoneReads bool) {
	t.Helper()
	commands(t, dev, func(c transport.TPM) error {
		platform := tpm2.AuthHandle{Handle: tpm2.TPMRHPlatform, Auth: tpm2.PasswordAuth(nil)}
		_, err := tpm2.NVDefineSpace{AuthHandle: platform, PublicInfo: tpm2.New2B(tpm2.TPMSNVPublic{
			NVIndex: index,
			NameAlg: tpm2.TPMAlgSHA256,
			Attributes: tpm2.TPMANV{
				PPWrite: true, PPRead: true, AuthRead: anyoneReads, OwnerRead: anyoneReads, NoDA: true, PlatformCreate: true,
			},
			DataSize: uint16(len(content)),
		})}.Execute(c)
		if err != nil {
			return err
		}
		pub, err := tpm2.NVReadPublic{NVIndex: index}.Execute(c)
		if err != nil {
			return err
		}
		_, err = tpm2.NVWrite{
			AuthHandle: platform,
			NVIndex:    tpm2.NamedHandle{Handle: index, Name: pub.NVName},
			Data:       tpm2.TPM2BMaxNVBuffer{Buffer: content},
		}.Execute(c)
		return err
	})
}

// removeNV undefines an index of the platform.
func removeNV(t *testing.T, dev *device.TPM, index tpm2.TPMHandle) {
	t.Helper()
	commands(t, dev, func(c transport.TPM) error {
		pub, err := tpm2.NVReadPublic{NVIndex: index}.Execute(c)
		if err != nil {
			return err
		}
		_, err = tpm2.NVUndefineSpace{
			AuthHandle: tpm2.AuthHandle{Handle: tpm2.TPMRHPlatform, Auth: tpm2.PasswordAuth(nil)},
			NVIndex:    tpm2.NamedHandle{Handle: index, Name: pub.NVName},
		}.Execute(c)
		return err
	})
}

// createPrimary creates a key of the endorsement hierarchy and hands it to use.
func createPrimary(t *testing.T, dev *device.TPM, template tpm2.TPMTPublic, use func(transport.TPM, *tpm2.CreatePrimaryResponse) error) {
	t.Helper()
	commands(t, dev, func(c transport.TPM) error {
		rsp, err := tpm2.CreatePrimary{
			PrimaryHandle: tpm2.AuthHandle{Handle: tpm2.TPMRHEndorsement, Auth: tpm2.PasswordAuth(nil)},
			InPublic:      tpm2.New2B(template),
		}.Execute(c)
		if err != nil {
			return err
		}
		err = use(c, rsp)
		_, flushErr := tpm2.FlushContext{FlushHandle: rsp.ObjectHandle}.Execute(c)
		return errors.Join(err, flushErr)
	})
}

// certificate issues one for the key.
func certificate(t *testing.T, ek *tpm.Public) []byte {
	t.Helper()
	now := time.Now()
	maker, err := fleet.NewMaker(rand.Reader, now, now.Add(time.Hour))
	if err != nil {
		t.Fatal(err)
	}
	der, err := maker.Certify(ek, now, now.Add(time.Hour))
	if err != nil {
		t.Fatal(err)
	}
	return der
}

// activates proves that ek and a new AK under it work.
func activates(t *testing.T, dev *device.TPM, ek *device.EK) error {
	t.Helper()
	blob, err := dev.CreateAK(t.Context(), ek, tpm.SHA256, "ecdsa", "ecc256")
	if err != nil {
		return err
	}
	ak, err := dev.LoadAK(t.Context(), ek, blob)
	if err != nil {
		return err
	}
	secret := []byte("secret")
	credential, err := tpm.MakeCredential(rand.Reader, ek.Public, ak.Public.Name(), secret)
	if err != nil {
		return err
	}
	got, err := dev.ActivateCredential(t.Context(), ek, ak, credential)
	if err == nil && !bytes.Equal(got, secret) {
		return errors.New("another secret came out")
	}
	return err
}

func TestPersistentEK(t *testing.T) {
	t.Parallel()
	dev := open(t, newTPM(t))
	checkNothingLoaded(t, dev)
	const handle = 0x81010020
	_, template := device.EKTemplate("rsa2048", 0)
	createPrimary(t, dev, template, func(c transport.TPM, key *tpm2.CreatePrimaryResponse) error {
		_, err := tpm2.EvictControl{
			Auth:             tpm2.AuthHandle{Handle: tpm2.TPMRHOwner, Auth: tpm2.PasswordAuth(nil)},
			ObjectHandle:     tpm2.NamedHandle{Handle: key.ObjectHandle, Name: key.Name},
			PersistentHandle: handle,
		}.Execute(c)
		return err
	})
	created, err := dev.CreateEK(t.Context(), device.EKOptions{})
	if err != nil {
		t.Fatal(err)
	}
	ek, err := dev.CreateEK(t.Context(), device.EKOptions{Handle: handle})
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(ek.Public.Bytes(), created.Public.Bytes()) || !bytes.Equal(ek.Cert, created.Cert) {
		t.Error("the persistent EK or its certificate is another one")
	}
	if err := activates(t, dev, ek); err != nil {
		t.Error(err)
	}
	if _, err := dev.CreateEK(t.Context(), device.EKOptions{Handle: handle + 1}); err == nil {
		t.Error("an EK at an empty handle")
	}
}

func TestAKIsNoEK(t *testing.T) {
	t.Parallel()
	dev := open(t, newTPM(t))
	const handle = 0x81010021
	srk := tpm2.ECCSRKTemplate
	srk.ObjectAttributes.Restricted, srk.ObjectAttributes.Decrypt, srk.ObjectAttributes.SignEncrypt = false, false, true
	srk.Parameters = tpm2.NewTPMUPublicParms(tpm2.TPMAlgECC, &tpm2.TPMSECCParms{CurveID: tpm2.TPMECCNistP256})
	createPrimary(t, dev, srk, func(c transport.TPM, key *tpm2.CreatePrimaryResponse) error {
		_, err := tpm2.EvictControl{
			Auth:             tpm2.AuthHandle{Handle: tpm2.TPMRHOwner, Auth: tpm2.PasswordAuth(nil)},
			ObjectHandle:     tpm2.NamedHandle{Handle: key.ObjectHandle, Name: key.Name},
			PersistentHandle: handle,
		}.Execute(c)
		return err
	})
	if _, err := dev.CreateEK(t.Context(), device.EKOptions{Alg: "ecc", Handle: handle}); !errors.Is(err, tpm.ErrKeyUnfit) {
		t.Errorf("%v, want ErrKeyUnfit", err)
	}
}

func TestEndorsementPassword(t *testing.T) {
	t.Parallel()
	dev := open(t, newTPM(t))
	checkNothingLoaded(t, dev)
	password := []byte("a password")
	commands(t, dev, func(c transport.TPM) error {
		_, err := tpm2.HierarchyChangeAuth{
			AuthHandle: tpm2.AuthHandle{Handle: tpm2.TPMRHEndorsement, Auth: tpm2.PasswordAuth(nil)},
			NewAuth:    tpm2.TPM2BAuth{Buffer: password},
		}.Execute(c)
		return err
	})
	ek, err := dev.CreateEK(t.Context(), device.EKOptions{Password: password})
	if err != nil {
		t.Fatal(err)
	}
	if err := activates(t, dev, ek); err != nil {
		t.Error(err)
	}
	for name, wrong := range map[string][]byte{"none": nil, "wrong": []byte("another")} {
		_, err := dev.CreateEK(t.Context(), device.EKOptions{Password: wrong})
		if err == nil || !strings.Contains(err.Error(), "tpm_ownerpassword") {
			t.Errorf("password %s: %v", name, err)
		}
	}
}

// The TPM's only certificate is for a key of the profile's high range.
func TestHighRangeEK(t *testing.T) {
	t.Parallel()
	dev := open(t, newTPM(t))
	checkNothingLoaded(t, dev)
	for _, alg := range []string{"rsa2048", "ecc256"} {
		low, _ := device.EKTemplate(alg, 0)
		high, template := device.EKTemplate(alg, 1)
		removeNV(t, dev, low)
		uncertified, err := dev.CreateEK(t.Context(), device.EKOptions{Alg: alg})
		if err != nil {
			t.Fatal(err)
		}
		if uncertified.Cert != nil {
			t.Errorf("%s: a certificate from nowhere", alg)
		}
		var key *tpm.Public
		createPrimary(t, dev, template, func(_ transport.TPM, rsp *tpm2.CreatePrimaryResponse) error {
			key, err = tpm.ParsePublic(tpm2.Marshal(rsp.OutPublic))
			return err
		})
		cert := certificate(t, key)
		writeNV(t, dev, high, append(bytes.Clone(cert), make([]byte, 100)...), true)

		ek, err := dev.CreateEK(t.Context(), device.EKOptions{Alg: alg})
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(ek.Public.Bytes(), key.Bytes()) || bytes.Equal(ek.Public.Bytes(), uncertified.Public.Bytes()) {
			t.Errorf("%s: EK is not that of the high range", alg)
		}
		if !bytes.Equal(ek.Cert, cert) {
			t.Errorf("%s: certificate of %d bytes, want %d without padding", alg, len(ek.Cert), len(cert))
		}
		if err := activates(t, dev, ek); err != nil {
			t.Errorf("%s: %v", alg, err)
		}
	}
}

// A certificate of another key, whatever index it is at, is not this EK's.
func TestForeignCertificateIsLeftOut(t *testing.T) {
	t.Parallel()
	dev := open(t, newTPM(t))
	index, _ := device.EKTemplate("ecc256", 0)
	other, err := fleet.NewSoftTPM(rand.Reader, "ecc256")
	if err != nil {
		t.Fatal(err)
	}
	foreign, err := tpm.ParsePublic(other.EKPublic())
	if err != nil {
		t.Fatal(err)
	}
	removeNV(t, dev, index)
	writeNV(t, dev, index, certificate(t, foreign), true)
	ek, err := dev.CreateEK(t.Context(), device.EKOptions{Alg: "ecc256"})
	if err != nil {
		t.Fatal(err)
	}
	if ek.Cert != nil {
		t.Error("the foreign certificate was taken")
	}
}

func TestCertificateChain(t *testing.T) {
	t.Parallel()
	server := newTPM(t)
	dev := open(t, server)
	ek, err := dev.CreateEK(t.Context(), device.EKOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if ek.Chain != nil {
		t.Errorf("chain of %d certificates in an empty range", len(ek.Chain))
	}
	var certs [][]byte
	for range 4 {
		certs = append(certs, certificate(t, ek.Public))
	}
	// Two certificates over three indices; then one, and its successor cut off by an index nobody may read; then
	// padding. What lies outside of the range is no part of the chain.
	joined := slices.Concat(certs[0], certs[1])
	third := len(joined) / 3
	writeNV(t, dev, 0x01c00100, joined[:third], true)
	writeNV(t, dev, 0x01c00101, joined[third:2*third], true)
	writeNV(t, dev, 0x01c00102, joined[2*third:], true)
	writeNV(t, dev, 0x01c00110, slices.Concat(certs[2], certs[3][:20]), true)
	writeNV(t, dev, 0x01c00111, certs[3][20:], false)
	writeNV(t, dev, 0x01c001ff, append(bytes.Clone(certs[3]), 0xFF, 0xFF), true)
	writeNV(t, dev, 0x01c00200, certs[0], true)
	ek, err = dev.CreateEK(t.Context(), device.EKOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if !slices.EqualFunc(ek.Chain, certs, bytes.Equal) {
		t.Errorf("chain of %d certificates, want %d in order", len(ek.Chain), len(certs))
	}
}

func TestSplitDER(t *testing.T) {
	t.Parallel()
	short := []byte{0x30, 2, 5, 0}
	medium := append([]byte{0x30, 0x81, 200}, make([]byte, 200)...)
	long := append([]byte{0x30, 0x82, 1, 0}, make([]byte, 256)...)
	for _, c := range []struct {
		name string
		in   []byte
		want [][]byte
	}{
		{"nothing", nil, nil},
		{"one", short, [][]byte{short}},
		{"three lengths", slices.Concat(short, medium, long), [][]byte{short, medium, long}},
		{"zero padding", append(bytes.Clone(short), 0, 0), [][]byte{short}},
		{"one padding", append(bytes.Clone(short), 0xFF), [][]byte{short}},
		{"cut short", long[:100], nil},
		{"header cut short", slices.Concat(short, []byte{0x30, 0x82, 1}), [][]byte{short}},
		{"four length bytes", []byte{0x30, 0x84, 0xFF, 0xFF, 0xFF, 0xFF}, nil},
		{"no sequence", []byte{0x31, 0}, nil},
	} {
		if got := device.SplitDER(c.in); !slices.EqualFunc(got, c.want, bytes.Equal) {
			t.Errorf("%s: %x, want %x", c.name, got, c.want)
		}
	}
	if got := device.TrimPadding([]byte("no DER")); string(got) != "no DER" {
		t.Errorf("what is no DER became %q", got)
	}
}

func FuzzSplitDER(f *testing.F) {
	f.Add([]byte{0x30, 2, 5, 0, 0x30, 0x81, 1, 7, 0xFF})
	f.Add([]byte{0x30, 0x82, 0xFF, 0xFF, 0})
	f.Fuzz(func(t *testing.T, b []byte) {
		joined := slices.Concat(device.SplitDER(b)...)
		if !bytes.HasPrefix(b, joined) {
			t.Fatal("the parts are not the beginning of the whole")
		}
	})
}

// PolicyB lets either PolicyA, the endorsement hierarchy's authorisation, or PolicyC, one in NV, authorise.
func TestPolicyConstants(t *testing.T) {
	t.Parallel()
	policyC := map[tpm.Hash]string{
		tpm.SHA256: "3767e2edd43ff45a3a7e1eaefcef78643dca964632e7aad82c673a30d8633fde",
		tpm.SHA384: "d6032ce61f2fb3c240eb3cf6a33237ef2b6a16f4293c22b455e261cffd217ad5b4947c2d73e63005eed2dc2b3593d165",
		tpm.SHA512: "589ee1e146544716e8deafe6db247b01b81e9f9c7dd16b814aa159138749105fba5388dd1dea702f35240c184933121e" +
			"2c61b8f50d3ef91393a49a38c3f73fc8",
	}
	for h, text := range policyC {
		hash := func(parts ...[]byte) []byte {
			d := h.Crypto().New()
			d.Write(slices.Concat(parts...))
			return d.Sum(nil)
		}
		code := func(cc tpm2.TPMCC) []byte { return binary.BigEndian.AppendUint32(nil, uint32(cc)) }
		zero := make([]byte, h.Size())
		endorsement := binary.BigEndian.AppendUint32(nil, uint32(tpm2.TPMRHEndorsement))
		policyA := hash(hash(zero, code(tpm2.TPMCCPolicySecret), endorsement)) // and an empty policyRef
		c, err := hex.DecodeString(text)
		if err != nil {
			t.Fatal(err)
		}
		if want := hash(zero, code(tpm2.TPMCCPolicyOR), policyA, c); !bytes.Equal(device.PolicyB(h), want) {
			t.Errorf("%v: PolicyB is %x, want %x", h, device.PolicyB(h), want)
		}
	}
}

func TestUnknownAlgorithms(t *testing.T) {
	t.Parallel()
	dev := open(t, newTPM(t))
	if _, err := dev.CreateEK(t.Context(), device.EKOptions{Alg: "rsa1024"}); err == nil {
		t.Error("EK of rsa1024")
	}
	ek, err := dev.CreateEK(t.Context(), device.EKOptions{})
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		sign, alg string
		hash      tpm.Hash
	}{
		{"ecdsa", "rsa2048", tpm.SHA256},
		{"rsassa", "ecc256", tpm.SHA256},
		{"ecschnorr", "ecc256", tpm.SHA256},
		{"rsassa", "rsa1024", tpm.SHA256},
		{"rsassa", "rsa2048", 0x12},
		{"", "", 0},
	} {
		if _, err := dev.CreateAK(t.Context(), ek, c.hash, c.sign, c.alg); err == nil {
			t.Errorf("AK of %s with %s and %v", c.alg, c.sign, c.hash)
		}
	}
}

func TestOpenErrors(t *testing.T) {
	t.Parallel()
	for tcti, hint := range map[string]string{
		"mssim:host=localhost":          "want device:",
		"/dev/tpm0":                     "want device:",
		"swtpm:hostname=localhost":      "unknown setting",
		"swtpm:port":                    "unknown setting",
		"swtpm:path=/does/not/exist":    "connect",
		"swtpm:host=127.0.0.1,port=1":   "connect",
		"device:/does/not/exist/tpmrm0": "no such TPM device",
	} {
		if _, err := device.Open(t.Context(), tcti); err == nil || !strings.Contains(err.Error(), hint) {
			t.Errorf("%s: %v, want an error with %q", tcti, err, hint)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := device.Open(ctx, "swtpm:path=/does/not/exist"); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
}

func TestRandomBytes(t *testing.T) {
	t.Parallel()
	dev := open(t, newTPM(t))
	seen := map[[32]byte]bool{}
	for _, n := range []int{0, 1, 32, 100} {
		b, err := dev.GetRandom(t.Context(), n)
		if err != nil || len(b) != n {
			t.Errorf("%d bytes: got %d, %v", n, len(b), err)
		}
		seen[sha256.Sum256(b)] = true
	}
	if len(seen) != 4 {
		t.Error("two answers are the same")
	}
}

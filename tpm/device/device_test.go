package device_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"errors"
	"testing"

	"github.com/google/go-tpm/tpm2"
	"github.com/google/go-tpm/tpm2/transport"

	"keylime/internal/swtpm"
	"keylime/tpm"
	"keylime/tpm/device"
)

func open(t *testing.T, s *swtpm.Server) *device.TPM {
	t.Helper()
	dev, err := device.Open(t.Context(), s.TCTI())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { dev.Close() })
	return dev
}

// loaded counts the transient objects and sessions in the TPM.
func loaded(t *testing.T, dev *device.TPM) int {
	t.Helper()
	n := 0
	err := dev.Commands(context.Background(), "count handles", func(c transport.TPM) error {
		for _, first := range []uint32{0x80000000, 0x02000000, 0x03000000} { // transient, loaded and saved sessions
			rsp, err := tpm2.GetCapability{Capability: tpm2.TPMCapHandles, Property: first, PropertyCount: 100}.Execute(c)
			if err != nil {
				return err
			}
			list, err := rsp.CapabilityData.Data.Handles()
			if err != nil {
				return err
			}
			n += len(list.Handle)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// checkNothingLoaded fails the test if it leaves something in the TPM.
func checkNothingLoaded(t *testing.T, dev *device.TPM) {
	t.Helper()
	before := loaded(t, dev)
	t.Cleanup(func() {
		if after := loaded(t, dev); after != before {
			t.Errorf("%d objects and sessions are left in the TPM, %d were there", after, before)
		}
	})
}

func TestAttestationEndToEnd(t *testing.T) {
	t.Parallel()
	server := newTPM(t)
	for _, c := range []struct {
		ek, ak, sign string
		hash         tpm.Hash
	}{
		{"rsa2048", "rsa2048", "rsassa", tpm.SHA256},
		{"rsa", "rsa", "rsapss", tpm.SHA384},
		{"ecc256", "ecc256", "ecdsa", tpm.SHA256},
		{"ecc384", "ecc384", "ecdsa", tpm.SHA384},
		{"rsa2048", "ecc256", "ecdsa", tpm.SHA1},
	} {
		t.Run(c.ek+"/"+c.sign+"/"+c.hash.String(), func(t *testing.T) {
			dev := open(t, server)
			checkNothingLoaded(t, dev)
			ctx := t.Context()
			ek, err := dev.CreateEK(ctx, device.EKOptions{Alg: c.ek})
			if err != nil {
				t.Fatal(err)
			}
			if _, err := x509.ParseCertificate(ek.Cert); err != nil {
				t.Errorf("EK certificate: %v", err)
			}
			blob, err := dev.CreateAK(ctx, ek, c.hash, c.sign, c.ak)
			if err != nil {
				t.Fatal(err)
			}
			ak, err := dev.LoadAK(ctx, ek, blob)
			if err != nil {
				t.Fatal(err)
			}

			secret := []byte("a challenge of 32 letters, almost")[:32]
			credential, err := tpm.MakeCredential(rand.Reader, ek.Public, ak.Public.Name(), secret)
			if err != nil {
				t.Fatal(err)
			}
			if got, err := dev.ActivateCredential(ctx, ek, ak, credential); err != nil || !bytes.Equal(got, secret) {
				t.Fatalf("ActivateCredential = %q, %v", got, err)
			}

			const key = "-----BEGIN PUBLIC KEY-----\n…\n-----END PUBLIC KEY-----\n"
			h := c.hash.Crypto().New()
			h.Write([]byte(key))
			nonce := []byte("n0nce")
			mask := tpm.MaskOf(0, 1, 2, 3, 4, 5, 6, 7, 10, 14)
			if c.hash == tpm.SHA1 {
				mask = 0 // PCR 16 alone
			}
			q, err := dev.Quote(ctx, ak, nonce, mask, c.hash, h.Sum(nil))
			if err != nil {
				t.Fatal(err)
			}
			pcrs, err := tpm.VerifyQuote(ak.Public, q, tpm.Expected{Nonce: nonce, Mask: mask.With(tpm.PCRData), Hash: c.hash})
			if err != nil {
				t.Fatal(err)
			}
			if got, _ := pcrs.PCR(tpm.PCRData); !bytes.Equal(got, tpm.DataPCR(c.hash, key)) {
				t.Errorf("PCR 16 is %x, want %x", got, tpm.DataPCR(c.hash, key))
			}
		})
	}
}

// Key sizes that few TPMs have a certificate for.
func TestLargerKeys(t *testing.T) {
	t.Parallel()
	dev := open(t, newTPM(t))
	checkNothingLoaded(t, dev)
	for _, c := range []struct{ alg, sign string }{{"rsa3072", "rsassa"}, {"ecc521", "ecdsa"}} {
		ek, err := dev.CreateEK(t.Context(), device.EKOptions{Alg: c.alg})
		if err != nil {
			t.Errorf("%s: %v", c.alg, err)
			continue
		}
		blob, err := dev.CreateAK(t.Context(), ek, tpm.SHA256, c.sign, c.alg)
		if err != nil {
			t.Errorf("%s: %v", c.alg, err)
			continue
		}
		ak, err := dev.LoadAK(t.Context(), ek, blob)
		if err != nil {
			t.Errorf("%s: %v", c.alg, err)
			continue
		}
		if ek.Public.EncAlg() != c.alg || ak.Public.EncAlg() != c.alg {
			t.Errorf("%s: EK is %s, AK is %s", c.alg, ek.Public.EncAlg(), ak.Public.EncAlg())
		}
		if err := verified(t.Context(), dev, ak, "nonce"); err != nil {
			t.Errorf("%s: %v", c.alg, err)
		}
		if err := activates(t, dev, ek); err != nil {
			t.Errorf("%s: %v", c.alg, err)
		}
	}
}

// NT-69: what an agent kept of its AK is damaged, or of another TPM.
func TestForeignAKIsRecognised(t *testing.T) {
	t.Parallel()
	server := newTPM(t)
	dev := open(t, server)
	checkNothingLoaded(t, dev)
	ctx := t.Context()
	ek, err := dev.CreateEK(ctx, device.EKOptions{})
	if err != nil {
		t.Fatal(err)
	}
	blob, err := dev.CreateAK(ctx, ek, tpm.SHA256, "rsassa", "rsa2048")
	if err != nil {
		t.Fatal(err)
	}
	other, err := dev.CreateAK(ctx, ek, tpm.SHA256, "rsassa", "rsa2048")
	if err != nil {
		t.Fatal(err)
	}
	otherEK, err := dev.CreateEK(ctx, device.EKOptions{Alg: "ecc256"})
	if err != nil {
		t.Fatal(err)
	}
	flipped := bytes.Clone(blob.Private)
	flipped[len(flipped)-1] ^= 1
	for name, c := range map[string]struct {
		ek   *device.EK
		blob device.AKBlob
	}{
		"swapped private part":   {ek, device.AKBlob{Public: blob.Public, Private: other.Private}},
		"flipped bit":            {ek, device.AKBlob{Public: blob.Public, Private: flipped}},
		"truncated private part": {ek, device.AKBlob{Public: blob.Public, Private: blob.Private[:len(blob.Private)-1]}},
		"short private part":     {ek, device.AKBlob{Public: blob.Public, Private: []byte{0, 1, 2}}},
		"empty":                  {ek, device.AKBlob{}},
		"truncated public part":  {ek, device.AKBlob{Public: blob.Public[:20], Private: blob.Private}},
		"an EK's public part":    {ek, device.AKBlob{Public: ek.Public.Bytes(), Private: blob.Private}},
		"other EK":               {otherEK, blob},
	} {
		if _, err := dev.LoadAK(ctx, c.ek, c.blob); !errors.Is(err, device.ErrForeignAK) {
			t.Errorf("%s: LoadAK = %v, want ErrForeignAK", name, err)
		}
	}
	if _, err := dev.LoadAK(ctx, ek, blob); err != nil {
		t.Errorf("the AK itself: %v", err)
	}
}

func TestKeysDoNotOutliveAReset(t *testing.T) {
	t.Parallel()
	server := newTPM(t)
	ctx := t.Context()
	dev := open(t, server)
	ek, err := dev.CreateEK(ctx, device.EKOptions{})
	if err != nil {
		t.Fatal(err)
	}
	blob, err := dev.CreateAK(ctx, ek, tpm.SHA256, "rsassa", "rsa2048")
	if err != nil {
		t.Fatal(err)
	}
	ak, err := dev.LoadAK(ctx, ek, blob)
	if err != nil {
		t.Fatal(err)
	}
	data := sha256.Sum256([]byte("key"))
	want := tpm.Expected{Nonce: []byte("n"), Mask: tpm.MaskOf(16), Hash: tpm.SHA256}
	verify := func(ak *device.AK) tpm.Clock {
		t.Helper()
		q, err := dev.Quote(ctx, ak, want.Nonce, 0, want.Hash, data[:])
		if err != nil {
			t.Fatal(err)
		}
		pcrs, err := tpm.VerifyQuote(ak.Public, q, want)
		if err != nil {
			t.Fatal(err)
		}
		return pcrs.Clock()
	}
	before := verify(ak)

	if err := server.Restart(ctx); err != nil {
		t.Fatal(err)
	}
	if _, err := dev.Quote(ctx, ak, want.Nonce, 0, want.Hash, data[:]); !errors.Is(err, device.ErrTPMReset) {
		t.Errorf("quote with a key loaded before the reset: %v, want ErrTPMReset", err)
	}
	if ek, err = dev.CreateEK(ctx, device.EKOptions{}); err != nil {
		t.Fatal(err)
	}
	if ak, err = dev.LoadAK(ctx, ek, blob); err != nil {
		t.Fatal(err)
	}
	after := verify(ak)
	if err := before.Check(after); err != nil || after.ResetCount != before.ResetCount+1 {
		t.Errorf("clock after a reboot: %v after %v: %v", after, before, err)
	}
}

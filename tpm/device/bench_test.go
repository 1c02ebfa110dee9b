package device_test

import (
	"testing"
	"time"

	"github.com/google/go-tpm/tpm2"
	"github.com/google/go-tpm/tpm2/transport"

	"keylime/tpm"
	"keylime/tpm/device"
)

var ekOptions = device.EKOptions{Alg: "rsa2048"}

// BenchmarkQuote makes an agent's quote of PCRs 10 and 16: the AK loaded, PCR 16 bound, PCRs read, quoted, the AK
// flushed. The ratio is to TPM2_Quote alone, on the same software TPM.
func BenchmarkQuote(b *testing.B) {
	server := newTPM(b)
	ctx := b.Context()
	dev, err := device.Open(ctx, server.TCTI())
	if err != nil {
		b.Fatal(err)
	}
	defer dev.Close()
	ek, err := dev.CreateEK(ctx, ekOptions)
	if err != nil {
		b.Fatal(err)
	}
	blob, err := dev.CreateAK(ctx, ek, tpm.SHA256, "rsassa", "rsa2048")
	if err != nil {
		b.Fatal(err)
	}
	ak, err := dev.LoadAK(ctx, ek, blob)
	if err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		if _, err := dev.Quote(ctx, ak, []byte("nonce"), tpm.MaskOf(tpm.PCRIma), tpm.SHA256, dataDigest[:]); err != nil {
			b.Fatal(err)
		}
	}
	perOp := b.Elapsed() / time.Duration(b.N)
	b.ReportMetric(float64(perOp)/float64(bareQuote(b, dev)), "x-bare-quote")
}

// bareQuote is the time of TPM2_Quote with a loaded key.
func bareQuote(b *testing.B, dev *device.TPM) time.Duration {
	b.Helper()
	const runs = 50
	var took time.Duration
	err := dev.Commands(b.Context(), "bare quotes", func(c transport.TPM) error {
		key, err := tpm2.CreatePrimary{
			PrimaryHandle: tpm2.AuthHandle{Handle: tpm2.TPMRHNull, Auth: tpm2.PasswordAuth(nil)},
			InPublic: tpm2.New2B(tpm2.TPMTPublic{
				Type: tpm2.TPMAlgRSA, NameAlg: tpm2.TPMAlgSHA256,
				ObjectAttributes: tpm2.TPMAObject{
					FixedTPM: true, FixedParent: true, SensitiveDataOrigin: true, UserWithAuth: true, Restricted: true, SignEncrypt: true,
				},
				Parameters: tpm2.NewTPMUPublicParms(tpm2.TPMAlgRSA, &tpm2.TPMSRSAParms{
					Scheme: tpm2.TPMTRSAScheme{Scheme: tpm2.TPMAlgRSASSA,
						Details: tpm2.NewTPMUAsymScheme(tpm2.TPMAlgRSASSA, &tpm2.TPMSSigSchemeRSASSA{HashAlg: tpm2.TPMAlgSHA256})},
					KeyBits: 2048,
				}),
			}),
		}.Execute(c)
		if err != nil {
			return err
		}
		defer tpm2.FlushContext{FlushHandle: key.ObjectHandle}.Execute(c)
		start := time.Now()
		for range runs {
			_, err := tpm2.Quote{
				SignHandle: tpm2.AuthHandle{Handle: key.ObjectHandle, Name: key.Name, Auth: tpm2.PasswordAuth(nil)},
				InScheme:   tpm2.TPMTSigScheme{Scheme: tpm2.TPMAlgNull},
				PCRSelect: tpm2.TPMLPCRSelection{PCRSelections: []tpm2.TPMSPCRSelection{{
					Hash: tpm2.TPMAlgSHA256, PCRSelect: tpm2.PCClientCompatible.PCRs(tpm.PCRIma, tpm.PCRData),
				}}},
			}.Execute(c)
			if err != nil {
				return err
			}
		}
		took = time.Since(start) / runs
		return nil
	})
	if err != nil {
		b.Fatal(err)
	}
	return took
}

package device_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-tpm/tpm2"

	"keylime/tpm"
	"keylime/tpm/device"
)

// newAK creates and loads an EK and an AK.
func newAK(t *testing.T, dev *device.TPM) (*device.EK, *device.AK) {
	t.Helper()
	ek, err := dev.CreateEK(t.Context(), device.EKOptions{Alg: "ecc256"})
	if err != nil {
		t.Fatal(err)
	}
	blob, err := dev.CreateAK(t.Context(), ek, tpm.SHA256, "ecdsa", "ecc256")
	if err != nil {
		t.Fatal(err)
	}
	ak, err := dev.LoadAK(t.Context(), ek, blob)
	if err != nil {
		t.Fatal(err)
	}
	return ek, ak
}

var dataDigest = sha256.Sum256([]byte("transport key"))

// verified quotes PCRs 10 and 16 and verifies the quote.
func verified(ctx context.Context, dev *device.TPM, ak *device.AK, nonce string) error {
	q, err := dev.Quote(ctx, ak, []byte(nonce), tpm.MaskOf(tpm.PCRIma), tpm.SHA256, dataDigest[:])
	if err != nil {
		return err
	}
	_, err = tpm.VerifyQuote(ak.Public, q, tpm.Expected{Nonce: []byte(nonce), Mask: tpm.MaskOf(10, 16), Hash: tpm.SHA256})
	return err
}

// NT-67: requests that come at once are served in turn.
func TestParallelQuotes(t *testing.T) {
	t.Parallel()
	dev := open(t, newTPM(t))
	_, ak := newAK(t, dev)
	checkNothingLoaded(t, dev)
	errs := make(chan error)
	const quotes = 16
	for i := range quotes {
		go func() { errs <- verified(context.WithoutCancel(t.Context()), dev, ak, fmt.Sprint("nonce", i)) }()
	}
	for range quotes {
		if err := <-errs; err != nil {
			t.Error(err)
		}
	}
}

// NT-67: a TPM that asks for it gets the command again, for a bounded time.
func TestBusyTPM(t *testing.T) {
	t.Parallel()
	dev, relay := openRelayed(t, newTPM(t))
	_, ak := newAK(t, dev)
	checkNothingLoaded(t, dev)
	for _, rc := range []tpm2.TPMRC{tpm2.TPMRCRetry, tpm2.TPMRCYielded, tpm2.TPMRCTesting, tpm2.TPMRCNVRate} {
		refusals := 0
		relay.commands(func(cc tpm2.TPMCC) []byte {
			if cc == tpm2.TPMCCQuote && refusals < 3 {
				refusals++
				return response(rc)
			}
			return nil
		})
		if err := verified(t.Context(), dev, ak, "nonce"); err != nil || refusals != 3 {
			t.Errorf("%v: %v after %d refusals", rc, err, refusals)
		}
	}

	relay.commands(func(cc tpm2.TPMCC) []byte {
		if cc == tpm2.TPMCCQuote {
			return response(tpm2.TPMRCRetry)
		}
		return nil
	})
	dev.SetPatience(50 * time.Millisecond)
	if err := verified(t.Context(), dev, ak, "nonce"); !errors.Is(err, device.ErrBusy) {
		t.Errorf("a TPM busy for ever: %v, want ErrBusy", err)
	}
	dev.SetPatience(time.Hour)
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if err := verified(ctx, dev, ak, "nonce"); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("a request with a deadline: %v, want its deadline exceeded", err)
	}
	relay.commands(nil)
}

// NT-67: a request does not wait for its turn longer than it may.
func TestWaitingForATurnIsBounded(t *testing.T) {
	t.Parallel()
	dev, relay := openRelayed(t, newTPM(t))
	entered, leave := make(chan struct{}), make(chan struct{})
	relay.commands(func(tpm2.TPMCC) []byte {
		close(entered)
		<-leave
		return nil
	})
	var first sync.WaitGroup
	first.Go(func() { _, _ = dev.GetRandom(context.Background(), 8) })
	<-entered
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if _, err := dev.GetRandom(ctx, 8); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("%v, want the deadline exceeded", err)
	}
	close(leave)
	first.Wait()
}

// NT-67: what an operator can cure is told.
func TestRefusalsSayWhatToDo(t *testing.T) {
	t.Parallel()
	dev, relay := openRelayed(t, newTPM(t))
	_, ak := newAK(t, dev)
	for _, c := range []struct {
		rc   tpm2.TPMRC
		is   error
		hint string
	}{
		{tpm2.TPMRCLockout, device.ErrLockout, "tpm2_dictionarylockout"},
		{tpm2.TPMRCObjectMemory, device.ErrFull, "tpm2_flushcontext"},
		{tpm2.TPMRCInitialize, tpm2.TPMRCInitialize, "TPM2_Startup"},
		{tpm2.TPMRCIntegrity, device.ErrTPMReset, "reset"},
	} {
		relay.commands(func(tpm2.TPMCC) []byte { return response(c.rc) })
		err := verified(t.Context(), dev, ak, "nonce")
		if !errors.Is(err, c.is) || !strings.Contains(err.Error(), c.hint) {
			t.Errorf("%v: %v, want %v and a hint at %s", c.rc, err, c.is, c.hint)
		}
	}
}

func TestBrokenResponses(t *testing.T) {
	t.Parallel()
	dev, relay := openRelayed(t, newTPM(t))
	for name, answer := range map[string][]byte{
		"none":           {},
		"half a header":  response(0)[:5],
		"no header":      []byte("HTTP/1.1 400 Bad Request\r\n\r\n"),
		"size too small": {0x80, 1, 0, 0, 0, 9, 0, 0, 0, 0},
		"size too large": {0x80, 1, 0xFF, 0xFF, 0xFF, 0xFF, 0, 0, 0, 0},
		"body missing":   {0x80, 1, 0, 0, 0, 20, 0, 0, 0, 0},
		"empty success":  response(0),
	} {
		relay.commands(func(tpm2.TPMCC) []byte { return answer })
		if got, err := dev.ReadPCR(t.Context(), tpm.SHA256, 0); err == nil {
			t.Errorf("%s: PCR 0 is %x", name, got)
		}
	}
}

// An EK without its certificate is another identity, so a TPM that fails to deliver it is an error.
func TestFailureIsNoMissingCertificate(t *testing.T) {
	t.Parallel()
	dev, relay := openRelayed(t, newTPM(t))
	checkNothingLoaded(t, dev)
	dev.SetPatience(20 * time.Millisecond)
	for name, answer := range map[string][]byte{"busy": response(tpm2.TPMRCRetry), "silent": {}} {
		relay.commands(func(cc tpm2.TPMCC) []byte {
			if cc == tpm2.TPMCCNVRead {
				return answer
			}
			return nil
		})
		if _, err := dev.CreateEK(t.Context(), device.EKOptions{}); err == nil {
			t.Errorf("TPM is %s: no error", name)
		}
	}
	relay.commands(func(cc tpm2.TPMCC) []byte {
		if cc == tpm2.TPMCCNVRead {
			return response(tpm2.TPMRCNVAuthorization)
		}
		return nil
	})
	if ek, err := dev.CreateEK(t.Context(), device.EKOptions{}); err != nil || ek.Cert != nil {
		t.Errorf("certificate that may not be read: %v", err)
	}
	relay.commands(nil)
}

// NT-68: whatever others left in PCR 16, a quote starts it anew.
func TestUsedDataPCR(t *testing.T) {
	t.Parallel()
	dev := open(t, newTPM(t))
	_, ak := newAK(t, dev)
	if err := dev.ExtendPCR(t.Context(), tpm.PCRData, map[tpm.Hash][]byte{tpm.SHA256: dataDigest[:], tpm.SHA1: dataDigest[:20]}); err != nil {
		t.Fatal(err)
	}
	if err := verified(t.Context(), dev, ak, "nonce"); err != nil {
		t.Error(err)
	}
	if err := dev.ResetPCR(t.Context(), tpm.PCRData); err != nil {
		t.Error(err)
	}
	if got, err := dev.ReadPCR(t.Context(), tpm.SHA1, tpm.PCRData); err != nil || !bytes.Equal(got, make([]byte, 20)) {
		t.Errorf("PCR 16 after a reset: %x, %v", got, err)
	}
	if err := dev.ResetPCR(t.Context(), tpm.PCRIma); err == nil {
		t.Error("PCR 10 was reset")
	}
}

// NT-68: a program that keeps changing PCR 16, or PCRs that never hold still, end in an error and not in a loop.
func TestDisturbedQuotes(t *testing.T) {
	t.Parallel()
	server := newTPM(t)
	dev, relay := openRelayed(t, server)
	other := open(t, server)
	_, ak := newAK(t, dev)
	checkNothingLoaded(t, dev)
	var times atomic.Int32
	disturb := func(before tpm2.TPMCC, pcr int, limit int32) {
		times.Store(0)
		relay.commands(func(cc tpm2.TPMCC) []byte {
			if cc == before && times.Load() < limit {
				times.Add(1)
				if err := other.ExtendPCR(context.Background(), pcr, map[tpm.Hash][]byte{tpm.SHA256: dataDigest[:]}); err != nil {
					t.Error(err)
				}
			}
			return nil
		})
	}
	for _, c := range []struct {
		name   string
		before tpm2.TPMCC
		pcr    int
		want   error
	}{
		{"PCR 16 extended after it was bound", tpm2.TPMCCPCRRead, 16, device.ErrDataPCR},
		{"PCR 10 extended after it was read", tpm2.TPMCCQuote, 10, device.ErrUnsteady},
		{"PCR 16 extended after it was read", tpm2.TPMCCQuote, 16, device.ErrUnsteady},
	} {
		disturb(c.before, c.pcr, 4)
		if err := verified(t.Context(), dev, ak, "nonce"); err != nil {
			t.Errorf("%s, four times: %v", c.name, err)
		}
		disturb(c.before, c.pcr, 1000)
		if err := verified(t.Context(), dev, ak, "nonce"); !errors.Is(err, c.want) {
			t.Errorf("%s, always: %v, want %v", c.name, err, c.want)
		}
		if n := times.Load(); n != 5 {
			t.Errorf("%s, always: %d tries, want 5", c.name, n)
		}
	}
	relay.commands(nil)
}

// A request that is cancelled in the middle leaves nothing in the TPM.
func TestCancelledRequestFlushes(t *testing.T) {
	t.Parallel()
	dev, relay := openRelayed(t, newTPM(t))
	ek, ak := newAK(t, dev)
	checkNothingLoaded(t, dev)
	for _, at := range []tpm2.TPMCC{tpm2.TPMCCContextLoad, tpm2.TPMCCPCRReset, tpm2.TPMCCPCRRead, tpm2.TPMCCQuote,
		tpm2.TPMCCStartAuthSession, tpm2.TPMCCPolicySecret, tpm2.TPMCCCreate} {
		ctx, cancel := context.WithCancel(t.Context())
		relay.commands(func(cc tpm2.TPMCC) []byte {
			if cc == at {
				cancel()
			}
			return nil
		})
		_, quoteErr := dev.Quote(ctx, ak, []byte("nonce"), tpm.MaskOf(0), tpm.SHA256, dataDigest[:])
		_, createErr := dev.CreateAK(ctx, ek, tpm.SHA256, "ecdsa", "ecc256")
		if ctx.Err() == nil {
			t.Errorf("0x%x was never sent", at)
		}
		if quoteErr == nil && createErr == nil && at != tpm2.TPMCCCreate {
			t.Errorf("cancelled at 0x%x: no error", at)
		}
		cancel()
	}
	relay.commands(nil)
}

// NT-66: what is refused before the TPM is asked.
func TestQuoteRequestsAreChecked(t *testing.T) {
	t.Parallel()
	dev := open(t, newTPM(t))
	_, ak := newAK(t, dev)
	nonce, mask := []byte("nonce"), tpm.MaskOf(0)
	for _, c := range []struct {
		name  string
		nonce []byte
		mask  tpm.Mask
		bank  tpm.Hash
		data  []byte
	}{
		{"no nonce", nil, mask, tpm.SHA256, nil},
		{"nonce of 65 bytes", make([]byte, 65), mask, tpm.SHA256, nil},
		{"no PCR", nonce, 0, tpm.SHA256, nil},
		{"PCR 24", nonce, 1 << 24, tpm.SHA256, nil},
		{"PCR 31 and data", nonce, 1 << 31, tpm.SHA256, dataDigest[:]},
		{"SM3 bank", nonce, mask, 0x12, nil},
		{"bank that the TPM lacks", nonce, mask, tpm.SHA512, nil},
		{"data of another bank", nonce, mask, tpm.SHA384, dataDigest[:]},
		{"empty data", nonce, mask, tpm.SHA256, []byte{}},
	} {
		if _, err := dev.Quote(t.Context(), ak, c.nonce, c.mask, c.bank, c.data); err == nil {
			t.Errorf("%s: quoted", c.name)
		}
	}
	if _, err := dev.Quote(t.Context(), ak, make([]byte, 64), mask, tpm.SHA256, nil); err != nil {
		t.Errorf("nonce of 64 bytes: %v", err)
	}
	for _, pcr := range []int{-1, 24} {
		if _, err := dev.ReadPCR(t.Context(), tpm.SHA256, pcr); err == nil {
			t.Errorf("read PCR %d", pcr)
		}
	}
}

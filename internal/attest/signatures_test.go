package attest

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/binary"
	"fmt"
	"strings"
	"testing"

	"keylime/ima"
	"keylime/internal/policy"
)

// fileSigner signs files, as a distribution does.
type fileSigner struct {
	private *ecdsa.PrivateKey
	key     *ima.Key
}

func newFileSigner(t testing.TB) fileSigner {
	t.Helper()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	spki, err := x509.MarshalPKIXPublicKey(&private.PublicKey)
	if err != nil {
		t.Fatal(err)
	}
	key, err := ima.ParseKey(spki)
	if err != nil {
		t.Fatal(err)
	}
	return fileSigner{private, key}
}

// sign makes the security.ima attribute of a file with the digest.
func (s fileSigner) sign(t testing.TB, digest []byte) []byte {
	t.Helper()
	signature, err := ecdsa.SignASN1(rand.Reader, s.private, digest)
	if err != nil {
		t.Fatal(err)
	}
	b := binary.BigEndian.AppendUint32([]byte{3, 2, 4}, s.key.ID())
	return append(binary.BigEndian.AppendUint16(b, uint16(len(signature))), signature...)
}

// keyPolicy lists keyrings, and of files only the boot aggregate and /listed.
func keyPolicy(t testing.TB, keyrings, ignored, excludes string, verificationKeys *ima.Keyring) *policy.Set {
	t.Helper()
	text := fmt.Sprintf(`{"meta":{"version":1,"generator":2},"release":0,"digests":{"/listed":["%x"]},"excludes":[%s],"keyrings":{%s},
		"ima":{"ignored_keyrings":[%s],"log_hash_alg":"sha1","dm_policy":null},"ima-buf":{},"verification-keys":%q}`,
		fileDigest("/listed"), excludes, keyrings, ignored, verificationKeys.String())
	runtime, err := policy.CompileRuntime([]byte(text))
	if err != nil {
		t.Fatal(err)
	}
	return set(t, runtime, `{"mask":"0x400"}`)
}

func listsKey(ring string, s fileSigner) string {
	return fmt.Sprintf(`"%s":["%x"]`, ring, digestOf(s.key.SPKI()))
}

// load measures that the kernel loaded the signer's key into a keyring.
func (k *kernel) load(t testing.TB, ring string, s fileSigner) {
	t.Helper()
	k.buffer(t, ring, digestOf(s.key.SPKI()), s.key.SPKI())
}

// exec measures a file that the signer signed.
func (k *kernel) exec(t testing.TB, path string, s fileSigner) {
	t.Helper()
	k.signed(t, path, fileDigest(path), s.sign(t, fileDigest(path)))
}

// goOn runs one round that asks for what is not yet proven, as a verifier does.
func (k *kernel) goOn(t testing.TB) Outcome {
	t.Helper()
	in := k.answer(t)
	in.Evidence.IMAEntry = k.state.NextEntry
	in.Evidence.IMA = []byte(strings.Join(k.list[k.state.NextEntry:], "\n") + "\n")
	return k.verify(t, in)
}

// unproven measures in f what stands in the list but in no quote: PCR 10 is that of another TPM meanwhile.
func (k *kernel) unproven(t testing.TB, f func()) {
	t.Helper()
	genuine := k.tpm
	k.tpm = newMachine(t).tpm
	f()
	k.tpm = genuine
}

// NT-3B: who may vouch for a file that the policy does not list.
func TestSignedFilesNotListed(t *testing.T) {
	t.Parallel()
	vendor, stranger := newFileSigner(t), newFileSigner(t)
	vendors := ima.NewKeyring(vendor.key)
	forVendor := keyPolicy(t, "", "", "", vendors)
	cached := *forVendor
	cached.Signatures = ima.NewSignatureCache(10)
	own := *keyPolicy(t, "", "", "", nil)
	own.Keyring = vendors
	ownInstead := *forVendor
	ownInstead.Keyring = ima.NewKeyring(stranger.key)
	empty := *set(t, mustEmpty(t), `{"mask":"0x0"}`)
	empty.Keyring = vendors
	for _, c := range []struct {
		name   string
		policy *policy.Set
		file   string
		signer fileSigner
		want   string
	}{
		{"key of the policy", forVendor, "/signed", vendor, "pass"},
		{"remembered", &cached, "/signed", vendor, "pass"},
		{"unknown key", forVendor, "/signed", stranger, notListed},
		{"unknown key, remembered", &cached, "/signed", stranger, notListed},
		{"unknown key, but listed", forVendor, "/listed", stranger, "pass"},
		{"no keys at all", keyPolicy(t, "", "", "", nil), "/signed", vendor, notListed},
		{"the agent's own key", &own, "/signed", vendor, "pass"},
		{"the agent's own keys stand in place of the policy's", &ownInstead, "/signed", vendor, notListed},
		{"own key, empty policy", &empty, "/signed", vendor, "pass"},
	} {
		k := newKernel(t)
		k.policy = c.policy
		k.exec(t, c.file, c.signer)
		first, second := events(k.judge(t).Verdict), events(k.judge(t).Verdict)
		if first != c.want || second != c.want {
			t.Errorf("%s: got %s, then %s, want %s", c.name, first, second, c.want)
		}
	}
}

func mustEmpty(t testing.TB) *policy.Runtime {
	t.Helper()
	r, err := policy.CompileRuntime([]byte(policy.EmptyRuntime))
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// A good signature does not make up for bytes that were changed after it.
func TestSignatureOfAnotherFile(t *testing.T) {
	t.Parallel()
	vendor := newFileSigner(t)
	k := newKernel(t)
	k.policy = keyPolicy(t, "", "", "", ima.NewKeyring(vendor.key))
	k.signed(t, "/listed", fileDigest("/evil"), vendor.sign(t, fileDigest("/listed")))
	expect(t, k.judge(t), wrongHash)
}

// NT-3B: keys that the kernel loads count if the policy lists them, for the files after them.
func TestLearnedKeys(t *testing.T) {
	t.Parallel()
	vendor := newFileSigner(t)
	for _, c := range []struct {
		name                        string
		keyrings, ignored, excludes string
		list                        func(k *kernel)
		want                        string
	}{
		{"listed key", listsKey(".ima", vendor), "", "", func(k *kernel) {
			k.load(t, ".ima", vendor)
			k.exec(t, "/signed", vendor)
		}, "pass"},
		{"key after its file", listsKey(".ima", vendor), "", "", func(k *kernel) {
			k.exec(t, "/signed", vendor)
			k.load(t, ".ima", vendor)
		}, notListed},
		{"right key, wrong keyring", listsKey(".ima", vendor), "", "", func(k *kernel) {
			k.load(t, ".other", vendor)
			k.exec(t, "/signed", vendor)
		}, notListed},
		{"key of an ignored keyring", "", `".ima"`, "", func(k *kernel) {
			k.load(t, ".ima", vendor)
			k.exec(t, "/signed", vendor)
		}, notListed},
		{"listed key of an ignored keyring", listsKey(".ima", vendor), `"*"`, "", func(k *kernel) {
			k.load(t, ".ima", vendor)
			k.exec(t, "/signed", vendor)
		}, notListed},
		{"HARDEN 5: key of an excluded keyring", "", "", `"\\.ima"`, func(k *kernel) {
			k.load(t, ".ima", vendor)
			k.exec(t, "/signed", vendor)
		}, notListed},
		{"HARDEN 4: another key with the listed digest", listsKey(".ima", vendor), "", "", func(k *kernel) {
			attacker := newFileSigner(t)
			k.buffer(t, ".ima", digestOf(vendor.key.SPKI()), attacker.key.SPKI())
			k.exec(t, "/signed", attacker)
		}, badHash + "," + notListed},
	} {
		k := newKernel(t)
		k.policy = keyPolicy(t, c.keyrings, c.ignored, c.excludes, nil)
		c.list(k)
		if got := events(k.judge(t).Verdict); got != c.want {
			t.Errorf("%s: got %s, want %s", c.name, got, c.want)
		}
	}
}

func TestLearnedKeysStay(t *testing.T) {
	t.Parallel()
	vendor, other := newFileSigner(t), newFileSigner(t)
	k := newKernel(t)
	k.policy = keyPolicy(t, listsKey(".ima", vendor)+","+listsKey(".evm", other), "", "", nil)
	k.load(t, ".ima", vendor)
	expect(t, k.goOn(t), "pass")
	decoded, err := DecodeState(k.state.Encode()) // as a store keeps it
	if err != nil {
		t.Fatal(err)
	}
	k.state = decoded
	k.exec(t, "/a", vendor)
	expect(t, k.goOn(t), "pass")
	k.load(t, ".evm", other)
	k.load(t, ".ima", vendor) // once more
	k.exec(t, "/b", other)
	expect(t, k.goOn(t), "pass")
	k.exec(t, "/c", vendor)
	k.exec(t, "/d", other)
	expect(t, k.goOn(t), "pass")
	if got := strings.Count(fmt.Sprint(k.state.Keyrings), `"keyids":[`); got != 2 || len(k.state.Keyrings) != 2 {
		t.Errorf("kept: %v", k.state.Keyrings)
	}
	before := k.state

	// What the policy no longer lists no longer counts.
	k.policy = keyPolicy(t, listsKey(".evm", other), "", "", nil)
	k.exec(t, "/e", vendor)
	expect(t, k.goOn(t), notListed)
	if len(k.state.Keyrings) != 0 {
		t.Errorf("a failure keeps %v", k.state.Keyrings)
	}
	if len(before.Keyrings) != 2 {
		t.Error("an earlier state was modified")
	}
}

// HARDEN 4: a key in entries that no quote covers is forgotten with them.
func TestUnprovenKeysAreNotKept(t *testing.T) {
	t.Parallel()
	vendor := newFileSigner(t)
	k := newKernel(t)
	k.policy = keyPolicy(t, listsKey(".ima", vendor), "", "", nil)
	k.file(t, "/listed", fileDigest("/listed"))
	covered := len(k.list)
	k.unproven(t, func() {
		k.load(t, ".ima", vendor)
		k.exec(t, "/signed", vendor)
	})
	expect(t, k.goOn(t), "pass") // the list is honest as far as anyone can tell yet
	if len(k.state.Keyrings) != 0 || k.state.NextEntry != uint64(covered) {
		t.Fatalf("kept from unproven entries: %+v", k.state)
	}
	k.list = k.list[:covered]
	k.file(t, "/listed", fileDigest("/listed"))
	k.file(t, "/listed", fileDigest("/listed"))
	k.exec(t, "/signed", vendor)
	expect(t, k.goOn(t), notListed)
}

// A list that is read from its first entry again teaches its keys again, and no others.
func TestFullListForgetsLearnedKeys(t *testing.T) {
	t.Parallel()
	vendor := newFileSigner(t)
	k := newKernel(t)
	k.policy = keyPolicy(t, listsKey(".ima", vendor), "", "", nil)
	k.load(t, ".ima", vendor)
	expect(t, k.goOn(t), "pass")
	k.state.Keyrings[".evm"] = k.state.Keyrings[".ima"]
	in := k.answer(t)
	in.Evidence.IMA, in.Evidence.IMAEntry = []byte(strings.Join(k.list, "\n")+"\n"), 0
	expect(t, k.verify(t, in), "pass")
	if len(k.state.Keyrings) != 1 {
		t.Errorf("kept: %v", k.state.Keyrings)
	}
}

func TestLearnedKeysAreBounded(t *testing.T) {
	t.Parallel()
	var learned learnedKeys
	for n := range 2 * maxLearnedKeys {
		s := newFileSigner(t)
		learned.learn(uint64(n+1), &ima.Entry{Name: []byte(".ima"), Digest: digestOf(s.key.SPKI()), Buffer: s.key.SPKI()})
	}
	learned = learnedKeys{proven: learned.upTo(1 << 20)}
	s := newFileSigner(t)
	learned.learn(1, &ima.Entry{Name: []byte(".evm"), Digest: digestOf(s.key.SPKI()), Buffer: s.key.SPKI()})
	kept := learned.upTo(1)
	if got := strings.Count(kept[".ima"], "MFkw"); got != maxLearnedKeys || len(kept) != 1 {
		t.Errorf("%d keys kept in %d keyrings", got, len(kept))
	}
}

// The state of an earlier release, or a damaged one, costs trust in keys and nothing else.
func TestUnreadableLearnedKeys(t *testing.T) {
	t.Parallel()
	for _, text := range []string{"", "x", "[]", `{"pubkeys":["AAAA"],"keyids":[1],"digests":["AA=="]}`, `{"pubkeys":["AAAA"],"keyids":[],"digests":[]}`} {
		k := learnedKeys{proven: map[string]string{".ima": text}}
		if n := len(k.ringOf(mustEmpty(t)).Keys()); n != 0 {
			t.Errorf("%s: %d keys", text, n)
		}
		if got := k.upTo(5); got[".ima"] != text {
			t.Errorf("%s became %s", text, got)
		}
	}
}

// Entries of newer templates are judged like those of the older ones, but only on demand.
func TestExtendedTemplates(t *testing.T) {
	t.Parallel()
	vendor := newFileSigner(t)
	typed := func(kind, path string) []byte {
		return append(sized(append([]byte(kind+":sha256:\x00"), fileDigest(path)...)), sized([]byte(path+"\x00"))...)
	}
	for _, c := range []struct {
		name, kind, path string
		signed           bool
		want             string
	}{
		{"listed", "ima", "/listed", false, "pass"},
		{"not listed", "ima", "/other", false, notListed},
		{"signed", "ima", "/signed", true, "pass"},
		{"fs-verity, listed", "verity", "/listed", false, "pass"},
		{"fs-verity, signed as a file is", "verity", "/signed", true, notListed},
	} {
		k := newKernel(t)
		k.policy = keyPolicy(t, "", "", "", ima.NewKeyring(vendor.key))
		template, data, last := "ima-ngv2", typed(c.kind, c.path), ""
		if c.signed {
			signature := vendor.sign(t, fileDigest(c.path))
			template, data, last = "ima-sigv2", append(data, sized(signature)...), fmt.Sprintf(" %x", signature)
		}
		hash := k.extend(t, data)
		k.list = append(k.list, fmt.Sprintf("10 %x %s %s:sha256:%x %s%s", hash, template, c.kind, fileDigest(c.path), c.path, last))
		if got := events(k.judge(t).Verdict); got != badEntry+",ima.pcr_mismatch" {
			t.Errorf("%s: without being asked for: %s", c.name, got)
		}
		k.policy.ExtendedTemplates = true
		if got := events(k.judge(t).Verdict); got != c.want {
			t.Errorf("%s: got %s, want %s", c.name, got, c.want)
		}
	}
}

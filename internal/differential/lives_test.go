package differential

import (
	"crypto/sha1"
	"crypto/sha256"
	"crypto/sha512"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"keylime/ima"
	"keylime/internal/fleet"
	"keylime/internal/policy"
	"keylime/tpm"
)

// What machines measure, and what policies say of it.
var (
	paths = []string{
		"boot_aggregate", "/usr/bin/tool0", "/usr/bin/tool1", "/usr/bin/tool2", "/usr/bin/tool3", "/usr/lib/libm.so", "/usr/lib/módulo.so.6",
		"/tmp/x y", "/var/tmp/a.b", "/etc/ünïcode", "(stdin)", "/usr/bin/[", "/usr/sbin/-", "/opt/日本/ツール", `/usr/bin/a\b`, `/opt/"q"`,
	}
	excludePool = []string{
		"/tmp/", "/usr/lib", `.*\.so$`, "^/etc", "boot_aggregate", `/var/(tmp|log)/.*\.[a-z]`, `\(stdin\)`, "/usr/bin/tool[0-2]",
		`/opt/[^/]+/\w+`, `(?:/usr)?/bin/.*`, "/x{2,3}|/usr/s", `/usr/bin/\[`, `.*\\.*`, "/nothing", "",
	}
	rings   = []string{".ima", ".evm", ".builtin_trusted_keys"}
	buffers = []string{"selinux-state", "dm_table_load", "kexec-cmdline"}
)

// world makes random lives.
type world struct {
	t       *testing.T
	random  *rand.Rand
	source  *rand.ChaCha8
	signers []signer
}

func (w *world) chance(percent int) bool { return w.random.IntN(100) < percent }

func pick[T any](w *world, list []T) T { return list[w.random.IntN(len(list))] }

// some is a random part of the list, in its order.
func some[T any](w *world, list []T, percent int) []T {
	part := []T{}
	for _, v := range list {
		if w.chance(percent) {
			part = append(part, v)
		}
	}
	return part
}

// content is a digest of a version of a file.
func content(alg, path string, version int) []byte {
	data := fmt.Appendf(nil, "%s %d", path, version)
	switch alg {
	case "sha1":
		d := sha1.Sum(data)
		return d[:]
	case "sha512":
		d := sha512.Sum512(data)
		return d[:]
	}
	d := sha256.Sum256(data)
	return d[:]
}

// entry is a random measurement; versions beyond 0 are those that most policies do not list.
func (w *world) entry(trouble int) entry {
	path, version := pick(w, paths), 0
	if w.chance(trouble) {
		version = 1
	}
	alg := pick(w, []string{"sha256", "sha256", "sha1", "sha512"})
	switch n := w.random.IntN(100); {
	case n < 10:
		return entry{template: "ima", alg: "sha1", digest: content("sha1", path, version), name: path}
	case n < 55:
		return entry{template: "ima-ng", alg: alg, digest: content(alg, path, version), name: path}
	case n < 78:
		return w.signedFile(strings.ReplaceAll(path, " ", "_"), version)
	case n < 88:
		return pick(w, w.signers).load(pick(w, rings))
	case n < 97:
		name := pick(w, buffers)
		data := fmt.Appendf(nil, "%s %d", name, version)
		return entry{template: "ima-buf", alg: alg, digest: content(alg, name, version), name: name, last: data}
	}
	return entry{template: "ima-ng", alg: alg, digest: make([]byte, 20), name: path, violation: true}
}

// signedFile has no signature, a good one, or one that nobody should accept.
func (w *world) signedFile(path string, version int) entry {
	e := entry{template: "ima-sig", alg: "sha256", digest: content("sha256", path, version), name: path}
	if w.chance(30) {
		return e
	}
	e.last = pick(w, w.signers).sign(w.t, e.digest)
	switch w.random.IntN(12) {
	case 0:
		e.last[len(e.last)-1] ^= 1
	case 1:
		e.last[3] ^= 1 // id of an unknown key
	case 2:
		e.last[1] = 1 // version
	case 3:
		e.last[0] = 5 // portable
	case 4:
		e.last[2] = 6 // algorithm of the signature is not the digest's
	case 5:
		e.digest = content("sha256", path, version+2) // signature of another file
	}
	return e
}

// runtimePolicy lists most of what machines measure.
func (w *world) runtimePolicy(log tpm.Hash, trouble int) string {
	if w.chance(4) {
		return policy.EmptyRuntime
	}
	digests := map[string][]string{}
	for _, path := range paths {
		if w.chance(trouble) {
			continue
		}
		for _, name := range []string{path, strings.ReplaceAll(path, " ", "_")} {
			digests[name] = w.digestsOf(name)
		}
	}
	keyrings, data := map[string][]string{}, map[string][]string{}
	for _, ring := range rings {
		for _, s := range some(w, w.signers, 90-trouble) {
			keyrings[ring] = append(keyrings[ring], hex.EncodeToString(s.load(ring).digest))
		}
	}
	for _, name := range some(w, buffers, 95-trouble) {
		data[name] = w.digestsOf(name)
	}
	ignored := []string{}
	switch w.random.IntN(8) {
	case 0:
		ignored = some(w, rings, 50)
	case 1:
		ignored = []string{"*"}
	}
	keys := ""
	if w.chance(30) {
		keys = w.keyring()
	}
	return marshal(w.t, map[string]any{
		"meta": map[string]any{"version": 1, "generator": 2}, "release": 0,
		"digests": digests, "excludes": some(w, excludePool, 7), "keyrings": keyrings,
		"ima":     map[string]any{"ignored_keyrings": ignored, "log_hash_alg": log.String(), "dm_policy": nil},
		"ima-buf": data, "verification-keys": keys,
	})
}

// digestsOf are the digests that a policy lists of a name, of all algorithms.
func (w *world) digestsOf(name string) []string {
	list := []string{hex.EncodeToString(content("sha384", name, 7))}
	for _, alg := range []string{"sha256", "sha1", "sha512"} {
		list = append(list, hex.EncodeToString(content(alg, name, 0)))
		if w.chance(20) {
			list = append(list, hex.EncodeToString(content(alg, name, 1)))
		}
	}
	return list
}

func (w *world) keyring() string {
	ring := ima.NewKeyring()
	for _, s := range some(w, w.signers, 60) {
		ring = ring.With(s.public)
	}
	if len(ring.Keys()) == 0 {
		return ""
	}
	return ring.String()
}

// tpmPolicy constrains some PCRs, seldom to values that they do not have.
func (w *world) tpmPolicy(m *machine, trouble int) string {
	mask := tpm.MaskOf(some(w, []int{1, 3, 9, 14, 23}, 20)...)
	if w.chance(50) {
		mask = mask.With(tpm.PCRIma)
	}
	p := map[string]any{}
	for _, pcr := range some(w, bootPCRs, 40) {
		mask = mask.With(pcr)
		values := []string{hex.EncodeToString(m.tpm.PCR(m.bank, pcr))}
		if w.chance(trouble) {
			values[0] = strings.Repeat("ab", m.bank.Size())
		}
		if w.chance(40) {
			values = append(values, strings.Repeat("cd", 32))
		}
		p[fmt.Sprint(pcr)] = values
	}
	p["mask"] = mask.String()
	return marshal(w.t, p)
}

var bootPCRs = []int{0, 2, 4, 7}

func marshal(t *testing.T, v any) string {
	t.Helper()
	text, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// boot starts a machine, again or for the first time.
func (w *world) boot(m *machine) {
	for _, pcr := range bootPCRs {
		if err := m.tpm.Extend(pcr, map[tpm.Hash][]byte{m.bank: sum(m.bank, []byte{byte(pcr)})}); err != nil {
			w.t.Fatal(err)
		}
	}
}

// live is a random life: boots, measurements, rounds, and perhaps a forgery in the end.
func (w *world) live() *life {
	trouble := pick(w, []int{0, 0, 2, 10})
	model := pick(w, []fleet.Model{
		{Alg: "ecc256"}, {Alg: "ecc256"}, {Alg: "ecc256", Hash: tpm.SHA1}, {Alg: "ecc256", Hash: tpm.SHA384}, {Alg: "ecc384", Hash: tpm.SHA384},
	})
	log := pick(w, []tpm.Hash{tpm.SHA1, tpm.SHA1, tpm.SHA1, tpm.SHA256, tpm.SHA384, tpm.SHA512})
	m := newMachine(w.t, w.source, model, log)
	w.boot(m)
	p := policies{runtime: w.runtimePolicy(log, trouble), tpm: w.tpmPolicy(m, trouble)}
	if w.chance(20) {
		p.keyring = w.keyring()
	}
	l := newLife(w.t, m, p)
	rounds := 1 + w.random.IntN(3)
	for i := range rounds {
		rebooted := i > 0 && w.chance(10)
		if rebooted {
			m.reboot()
			w.boot(m)
		}
		if l.state.NextEntry == 0 {
			m.catchUp(w.t) // an answer from the first entry makes the peer forget what it was shown
		}
		for range w.random.IntN(9) {
			m.measure(w.t, w.entry(trouble))
		}
		if w.chance(15) {
			m.catchUp(w.t)
			for range 1 + w.random.IntN(2) {
				m.show(w.entry(trouble))
			}
		}
		if i == rounds-1 && !rebooted && w.chance(45) {
			l.round(w.forgery())
			break
		}
		l.round()
	}
	return l
}

// forgery is one that both sides answer with the same events.
func (w *world) forgery() forgery {
	switch w.random.IntN(9) {
	case 0:
		return func(a *answer) { a.nonce += "x"; a.requote(w.t) }
	case 1:
		return func(a *answer) { a.pubkey += "x" }
	case 2:
		return func(a *answer) { a.hasList, a.first, a.list = false, 0, nil }
	case 3:
		return func(a *answer) {
			switch w.random.IntN(3) {
			case 0:
				a.hashAlg = "sha512"
			case 1:
				a.encAlg = "rsa4096"
			case 2:
				a.signAlg = "unknown"
			}
		}
	}
	return func(a *answer) {
		// What does not continue a proven list is asked for again here, and fails then.
		if a.first == 0 && len(a.list) > 0 {
			w.changeList(a)
		}
	}
}

// changeList changes one line, or the order or number of lines.
func (w *world) changeList(a *answer) {
	i := w.random.IntN(len(a.list))
	fields := strings.SplitN(a.list[i], " ", 5)
	change := func(field int, value string) {
		fields[field] = value
		a.list[i] = strings.Join(fields, " ")
	}
	switch w.random.IntN(13) {
	case 0:
		a.list = slices.Delete(a.list, i, i+1)
	case 1:
		a.list = slices.Insert(a.list, i, a.list[w.random.IntN(len(a.list))])
	case 2:
		j := w.random.IntN(len(a.list))
		a.list[i], a.list[j] = a.list[j], a.list[i]
	case 3:
		a.list = slices.Insert(a.list, i, pick(w, []string{"garbage", "10 ab ima-ng", "10 zz ima-ng sha256:00 /a", "10 ab ima-xyz sha256:00 /a"}))
	case 4:
		a.list = slices.Insert(a.list, i, "")
	case 5:
		change(1, strings.Repeat("0", len(fields[1])))
	case 6:
		change(1, strings.Repeat("ab", len(fields[1])/2))
	case 7:
		change(1, strings.ToUpper(fields[1]))
	case 8:
		change(4, "/x"+fields[4])
	case 9:
		change(2, "ima-ng")
	case 10:
		change(3, strings.Replace(fields[3], "sha256:", "sha512:", 1))
	case 11:
		change(3, fields[3][:len(fields[3])-2]+"ef")
	case 12:
		a.list = a.list[:i]
	}
}

func compareLives(t *testing.T, p *peer, seed uint64, count int) {
	signers := newSigners(t)
	var lives []*life
	for i := range count {
		source := rand.NewChaCha8([32]byte{byte(seed), byte(seed >> 8), byte(seed >> 16), byte(seed >> 24), byte(i), byte(i >> 8)})
		w := &world{t: t, random: rand.New(source), source: source, signers: signers}
		l := w.live()
		l.ask(p)
		lives = append(lives, l)
	}
	tally := map[string]int{}
	for i, l := range lives {
		theirs := l.theirs(p)
		for _, ids := range theirs {
			tally[strings.Join(ids, " ")]++
		}
		if !sameRounds(l.ours, theirs) {
			t.Errorf("life %d: events of each round are %q here, %q at the peer\n%s", i, l.ours, theirs, l.describe())
		}
	}
	t.Logf("%d lives; rounds by outcome: %v", len(lives), tally)
	if tally[""] == 0 || len(tally) < 10 {
		t.Errorf("the generated lives have too few outcomes to compare: %v", tally)
	}
}

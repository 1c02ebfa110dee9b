package tenant

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"keylime/ima"
	"keylime/internal/api"
	"keylime/internal/policy"
	"keylime/internal/strictjson"
	"keylime/tpm"
)

// maxPolicySize bounds policies read from files and URLs: what a verifier accepts in one request.
const maxPolicySize = 100 << 20

// maxOpaquePolicy bounds PCR policies: 24 PCRs with hundreds of digests each.
const maxOpaquePolicy = 1 << 20

// appraisal is what a machine must satisfy, as the verifier is told it.
type appraisal struct {
	tpmPolicy         string // JSON with "mask"
	runtimePolicy     string // base64, "" = none given
	runtimePolicyKey  string // base64, "" = not signed
	runtimePolicyName string
	mbPolicy          *string
	mbPolicyName      string
	pcrPolicyName     string
	imaKeyring        string // "" = none of the agent's own
}

// demandsNothing: no PCR but the one that binds the transport key is asked for.
func (a appraisal) demandsNothing() bool {
	return a.tpmPolicy == tpmPolicyOfNothing && a.pcrPolicyName == ""
}

const tpmPolicyOfNothing = `{"mask": "0x0"}`

// appraisal reads and checks the policies that the options name. Nothing is asked of any server of Keylime.
func (t *tenant) appraisal(ctx context.Context, o *options) (appraisal, error) {
	a := appraisal{runtimePolicyName: o.runtimePolicyName, mbPolicyName: o.mbPolicyName, pcrPolicyName: o.pcrPolicyName}
	for flag, name := range map[string]string{"--runtime-policy-name": a.runtimePolicyName, "--mb-policy-name": a.mbPolicyName, "--pcr-policy-name": a.pcrPolicyName} {
		if name != "" && !api.ValidPolicyName(name) {
			return a, badPolicyName(flag, name)
		}
	}
	text, key, err := t.runtimePolicy(ctx, o)
	if err != nil {
		return a, err
	}
	a.runtimePolicy, a.runtimePolicyKey = base64.StdEncoding.EncodeToString(text), base64.StdEncoding.EncodeToString(key)
	if o.mbPolicy != "" {
		if a.mbPolicy, err = t.mbPolicy(o.mbPolicy); err != nil {
			return a, err
		}
	}
	if a.imaKeyring, err = imaKeyring(o.imaKeys); err != nil {
		return a, err
	}
	measured := text != nil || a.runtimePolicyName != "" || a.imaKeyring != ""
	measuredBoot := a.mbPolicy != nil || a.mbPolicyName != ""
	a.tpmPolicy, err = tpmPolicy(o.tpmPolicy, measured, measuredBoot)
	return a, err
}

// runtimePolicy is the policy's text from file or URL, validated, and the PEM text of the key that it is signed with;
// nil when the options name none.
func (t *tenant) runtimePolicy(ctx context.Context, o *options) (text, key []byte, err error) {
	source := o.runtimePolicy
	switch {
	case o.allowlist != "":
		source = o.allowlist
		text, err = t.convertAllowList(o.allowlist, o.exclude)
	case o.runtimePolicyURL != "":
		source = o.runtimePolicyURL
		t.note("downloading the runtime policy from %s", clean(source))
		text, err = fetch(ctx, source, t.cfg.RequestTimeout)
	case o.runtimePolicy != "":
		text, err = readFile(source, maxPolicySize)
	default:
		return nil, nil, nil
	}
	if err != nil {
		return nil, nil, failure(exitFailed, "check its place, or copy it here and give it with --runtime-policy", "runtime policy: %w", err)
	}
	sum := sha256.Sum256(text)
	if want := strings.ToLower(o.runtimePolicyChecksum); want != "" && want != hex.EncodeToString(sum[:]) {
		return nil, nil, failure(exitUntrusted, "get the policy again from whom you trust; `sha256sum` shows a file's checksum",
			"runtime policy %s: checksum does not match: expected %s, got %x", clean(source), clean(want), sum)
	}
	d, err := policy.OpenDocument(text)
	if err != nil {
		return nil, nil, failure(exitFailed, "correct the policy", "runtime policy %s: %w", clean(source), err)
	}
	if key, err = checkSignature(d, o.runtimePolicyKey, source); err != nil {
		return nil, nil, err
	}
	if _, err := d.Compile(policy.DMPolicy); err != nil { // whether it is enabled is the verifier's to say
		return nil, nil, failure(exitFailed, "correct the policy", "runtime policy %s: %w", clean(source), err)
	}
	return text, key, nil
}

// convertAllowList makes a runtime policy of an allow list and an exclude list of the formats before it.
func (t *tenant) convertAllowList(name, excludeName string) ([]byte, error) {
	text, err := readFile(name, maxPolicySize)
	if err != nil {
		return nil, err
	}
	var more policy.Additions
	if excludeName != "" {
		if more.Excludes, err = readFile(excludeName, maxPolicySize); err != nil {
			return nil, err
		}
	}
	made, err := policy.ConvertAllowList(text, more, time.Now())
	if err != nil {
		return nil, err
	}
	t.note("--allowlist is deprecated: make a runtime policy of %s with `keylime policy convert`", clean(name))
	for _, note := range made.Notes {
		t.note("%s: %s", clean(name), clean(note))
	}
	return made.Text, nil
}

// imaKeyring is the keyring of the keys in the files; "" without any.
func imaKeyring(files []string) (string, error) {
	if len(files) == 0 {
		return "", nil
	}
	keys := ima.NewKeyring()
	for _, name := range files {
		text, err := readFile(name, maxKeyFile)
		if err != nil {
			return "", failure(exitFailed, "check its place", "key for file signatures: %w", err)
		}
		key, err := ima.ParseKey(text)
		if err != nil {
			return "", failure(exitFailed, "give a certificate or a public key, RSA or elliptic curve, in PEM or DER", "key for file signatures %s: %w", clean(name), err)
		}
		keys = keys.With(key)
	}
	return keys.String(), nil
}

func badPolicyName(flag, name string) error {
	return usage("a name has letters, digits, dots, dashes and underscores", "%s: %q is no name of a policy", flag, name)
}

// mbPolicy is the text of a measured-boot policy.
func (t *tenant) mbPolicy(name string) (*string, error) {
	if name == "default" {
		if name = t.cfg.MBRefState; name == "" {
			return nil, usage("set mb_refstate, or name the file", "--mb-policy default: mb_refstate of [tenant] is not set")
		}
	}
	raw, err := readFile(name, maxPolicySize)
	if err != nil {
		return nil, failure(exitFailed, "check its place", "measured-boot policy: %w", err)
	}
	if !json.Valid(raw) {
		return nil, failure(exitFailed, "correct the policy", "measured-boot policy %s: not JSON", name)
	}
	text := string(raw)
	return &text, nil
}

// pcrPolicy is the text of a PCR policy from a file, checked as the verifier will check it.
func pcrPolicy(name string) (string, error) {
	const hint = `write it as {"22": ["HEX", ...]}`
	raw, err := readFile(name, maxOpaquePolicy)
	if err != nil {
		return "", failure(exitFailed, "check its place", "PCR policy: %w", err)
	}
	p, err := policy.ParsePCR(string(raw))
	switch {
	case err != nil:
		return "", failure(exitFailed, hint, "PCR policy %s: %w", clean(name), err)
	case p.Constrained() == 0:
		return "", failure(exitFailed, hint, "PCR policy %s: it has no digest; no PCR would be checked", clean(name))
	}
	return string(raw), nil
}

// tpmPolicy completes the tpm_policy of the command line: lower-case digests, always in a list, and the mask of all
// PCRs that the quotes must cover. A PCR that a policy of another kind explains may not have a digest as well.
func tpmPolicy(text string, ima, measuredBoot bool) (string, error) {
	const hint = `write it as '{"22": ["HEX", ...]}'`
	if text == "" {
		text = "{}"
	}
	wanted, err := readTPMPolicy(text)
	if err != nil {
		return "", usage(hint, "--tpm_policy: %v", err)
	}
	mask := tpm.Mask(0)
	for _, w := range wanted {
		mask = mask.With(w.pcr)
	}
	if shared := mask & policy.BootPCRs; measuredBoot && shared != 0 {
		return "", usage("remove them from --tpm_policy", "--tpm_policy has digests for PCRs %v, which the measured-boot policy explains", shared.PCRs())
	}
	if ima {
		mask = mask.With(tpm.PCRIma)
	}
	if measuredBoot {
		mask |= policy.BootPCRs
	}
	// The verifier may be one that reads this text as a Python literal: strings and lists only.
	var out strings.Builder
	out.WriteByte('{')
	for _, w := range wanted {
		fmt.Fprintf(&out, "\"%d\": [\"%s\"], ", w.pcr, strings.Join(w.digests, `", "`))
	}
	fmt.Fprintf(&out, "\"mask\": \"%s\"}", mask)
	if _, err := policy.ParsePCR(out.String()); err != nil {
		return "", usage(hint, "--tpm_policy: %w", err)
	}
	return out.String(), nil
}

// pcrDigests is one member of a tpm_policy.
type pcrDigests struct {
	pcr     int
	digests []string
}

// readTPMPolicy reads the members in ascending order; policy.ParsePCR judges their values.
func readTPMPolicy(text string) ([]pcrDigests, error) {
	var list []pcrDigests
	r := strictjson.NewReader(text, 2)
	err := r.Object(func(name string) error {
		pcr, err := strconv.Atoi(name)
		if err != nil || !tpm.Mask(1<<24-1).Has(pcr) {
			return fmt.Errorf("invalid PCR number %q", name)
		}
		w := pcrDigests{pcr: pcr}
		digest := func() error {
			s, err := r.String()
			if err == nil && strings.Trim(s, "0123456789abcdefABCDEFx") != "" {
				return fmt.Errorf("PCR %d: digest %q is not hexadecimal", pcr, s)
			}
			w.digests = append(w.digests, strings.ToLower(s))
			return err
		}
		if r.Kind() == strictjson.Array {
			err = r.Array(digest)
		} else {
			err = digest()
		}
		list = append(list, w)
		return err
	})
	if err == nil {
		err = r.End()
	}
	slices.SortFunc(list, func(a, b pcrDigests) int { return a.pcr - b.pcr })
	return list, err
}

// readFile reads a regular file of at most limit bytes.
func readFile(name string, limit int64) ([]byte, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	var text bytes.Buffer
	if _, err := io.Copy(&text, io.LimitReader(f, limit+1)); err != nil {
		return nil, fmt.Errorf("read %s: %w", name, err)
	}
	if int64(text.Len()) > limit {
		return nil, fmt.Errorf("%s is larger than %d bytes", name, limit)
	}
	return text.Bytes(), nil
}

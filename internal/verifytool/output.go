package verifytool

import (
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"text/tabwriter"
	"time"

	"keylime/internal/ear"
	"keylime/internal/evidence"
	"keylime/internal/pki"
	"keylime/internal/policytool"
)

// tokenLifetime is how long a token of this command is good: it is to be handed on at once.
const tokenLifetime = 5 * time.Minute

// printToken prints the verdict as a token.
func printToken(w io.Writer, keyFile string, r evidence.Result) error {
	key, err := pki.ReadSigningKey(keyFile)
	if err != nil {
		return err
	}
	signer, err := ear.NewSigner(key, rand.Reader)
	if err != nil {
		return fmt.Errorf("%s: %w", keyFile, err)
	}
	token, err := signer.Sign(ear.Issuer{Name: "keylime:verify", Lifetime: tokenLifetime}.Of(r, time.Now()))
	if err != nil {
		return err
	}
	_, err = fmt.Fprintln(w, token)
	return err
}

// verdict is the JSON of the command. The claims are those of a guest; a TPM's are the evidence itself.
type verdict struct {
	Valid    bool               `json:"valid"`
	Evidence string             `json:"evidence"`
	Nonce    string             `json:"nonce"`
	AK       string             `json:"ak_name,omitempty"`
	Policies map[string]string  `json:"policies,omitempty"` // digests
	Claims   json.RawMessage    `json:"claims,omitempty"`
	Failures []evidence.Failure `json:"failures"`
}

func printJSON(w io.Writer, r evidence.Result) error {
	v := verdict{Valid: r.Valid, Evidence: r.Kind, Nonce: r.Basis.Nonce, AK: hex.EncodeToString(r.Basis.AKName), Policies: map[string]string{}, Failures: r.Failures}
	for _, p := range policies(r.Basis) {
		if p.digest != "" {
			v.Policies[p.name] = p.digest
		}
	}
	if r.Kind == evidence.KindTEE {
		v.Claims = r.Claims
	}
	enc := json.NewEncoder(w)
	enc.SetEscapeHTML(false)
	enc.SetIndent("", "  ")
	return enc.Encode(v)
}

type namedDigest struct{ name, digest string }

func policies(b evidence.Basis) []namedDigest {
	return []namedDigest{{"tpm_policy", b.TPMPolicy}, {"runtime_policy", b.RuntimePolicy}, {"mb_policy", b.BootPolicy}}
}

// printTable prints the verdict for people.
func printTable(w io.Writer, r evidence.Result) error {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	word := map[bool]string{true: "pass", false: "fail"}[r.Valid]
	fmt.Fprintf(t, "verdict\t%s\n", word)
	fmt.Fprintf(t, "nonce\t%s\n", policytool.Printable(r.Basis.Nonce))
	if len(r.Basis.AKName) > 0 {
		fmt.Fprintf(t, "AK\t%x\n", r.Basis.AKName)
	}
	if r.Kind == evidence.KindTPM {
		for _, p := range policies(r.Basis) {
			if p.digest == "" {
				p.digest = "none: nothing of it was judged"
			}
			fmt.Fprintf(t, "%s\t%s\n", p.name, p.digest)
		}
	}
	if s := r.Basis.SNP; s != nil {
		fmt.Fprintf(t, "measurement\t%x\n", []byte(s.Measurement))
		fmt.Fprintf(t, "host_data\t%x\n", []byte(s.HostData))
		fmt.Fprintf(t, "firmware\tboot loader %d, TEE %d, SNP %d, microcode %d\n", s.TCBBootloader, s.TCBTEE, s.TCBSNP, s.TCBMicrocode)
		fmt.Fprintf(t, "debug\t%s\n", map[bool]string{true: "allowed: the host can read the guest's memory", false: "not allowed"}[s.PolicyDebug])
	}
	for _, f := range r.Failures {
		fmt.Fprintf(t, "failure\t%s\n\t%s\n", f.Type, policytool.Printable(messageOf(f)))
	}
	return t.Flush()
}

// messageOf is a failure in a line: the message of its context when that is all, else the whole context.
func messageOf(f evidence.Failure) string {
	var context map[string]any
	if json.Unmarshal(f.Context, &context) == nil && len(context) == 1 {
		if text, ok := context["message"].(string); ok {
			return text
		}
	}
	return string(f.Context)
}

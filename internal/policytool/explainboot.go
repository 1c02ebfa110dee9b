package policytool

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"

	"keylime/internal/policy"
)

// bootRule is the JSON of one rule of a measured-boot policy.
type bootRule struct {
	PCRs []int    `json:"pcrs"`  // none: the rule is on all events together
	Type []string `json:"types"` // none: of any type
	Text string   `json:"rule"`
}

// boot lists the rules of a measured-boot policy.
func (r *explainRequest) boot(stdout io.Writer) error {
	err := arguments(r.files, 1, 1, "one measured-boot policy")
	if r.path != "" || r.digest != "" || r.log != "" {
		err = errors.New("--path, --digest and --log are for runtime policies; --mb-engine is for a measured-boot policy")
	}
	if err != nil {
		return usageError("policy explain", "%w", err)
	}
	text, err := ReadInput(r.files[0])
	if err != nil {
		return err
	}
	compiled, err := policy.CompileBoot(r.engine, text)
	if err != nil {
		return fmt.Errorf("%s: %w", r.files[0], err)
	}
	rules := []bootRule{}
	if compiled != nil { // else it asks for nothing
		for _, rule := range compiled.Explain() {
			rules = append(rules, bootRule{append([]int{}, rule.PCRs...), append([]string{}, rule.Types...), rule.Comment})
		}
	}
	if r.json {
		return printJSON(stdout, rules)
	}
	return printBootRules(stdout, rules)
}

func printBootRules(w io.Writer, rules []bootRule) error {
	out := bufio.NewWriter(w)
	if len(rules) == 0 {
		fmt.Fprintln(out, "the policy asks for nothing: boots are not judged")
	}
	for _, rule := range rules {
		fmt.Fprintf(out, "%s\n  %s\n", rule.events(), Printable(rule.Text))
	}
	return out.Flush()
}

// events says which events a rule is for.
func (r bootRule) events() string {
	if len(r.PCRs) == 0 {
		return "all events together"
	}
	pcrs := make([]string, len(r.PCRs))
	for i, pcr := range r.PCRs {
		pcrs[i] = strconv.Itoa(pcr)
	}
	return strings.TrimSpace("PCR " + strings.Join(pcrs, ", ") + " " + strings.Join(r.Type, ", "))
}

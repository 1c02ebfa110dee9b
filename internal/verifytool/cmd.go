package verifytool

import (
	"fmt"
	"strings"

	"github.com/urfave/cli/v2"

	"keylime/internal/policy"
)

// Command is `keylime verify`.
func Command() *cli.Command {
	r := &request{}
	return &cli.Command{
		Name:  "verify",
		Usage: "judge evidence in a file, offline, as a verifier's verify/evidence does",
		Description: `Judges a quote with its measurement list and event log, or a report of AMD SEV-SNP, by the code that verifiers judge them by.
FILE is the body of a request to verify/evidence:

   {"type": "tpm", "data": {"quote": "r…:…:…", "nonce": "…", "hash_alg": "sha256", "tpm_ak": "base64 of TPM2B_PUBLIC",
     "runtime_policy": "…", "ima_measurement_list": "…", "mb_policy": "…", "mb_log": "base64"}}

or what an agent answers to /quotes/integrity, asked for its whole list. What flags give counts in place of what FILE says.
Who vouches for the AK, and that the nonce is fresh, is for you to know: the file cannot say.

   keylime verify --evidence evidence.json
   keylime verify --evidence answer.json --ak ak.b64 --nonce NONCE --runtime-policy policy.json --json
   keylime verify --evidence report.json --snp-chain Milan=ask_ark.pem --snp-vcek-dir vceks/ --ear-key key.pem

Exit codes: 0 the evidence is good; 1 it is not; 2 wrong command line, or something that cannot be read.`,
		UsageText: "keylime verify --evidence FILE [flags]",
		Flags: []cli.Flag{
			&cli.StringFlag{Name: "evidence", Usage: "judge the evidence in `FILE`; - is standard input", Destination: &r.evidence},
			&cli.StringFlag{Name: "runtime-policy", Usage: "by the runtime policy in `FILE`, plain or signed", Destination: &r.runtimePolicy},
			&cli.StringFlag{Name: "runtime-policy-key", Usage: "which has to be signed with the public key in `FILE`, PEM", Destination: &r.runtimePolicyKey},
			&cli.StringFlag{Name: "mb-policy", Usage: "by the measured-boot policy in `FILE`", Destination: &r.bootPolicy},
			&cli.StringFlag{Name: "mb-engine", Value: policy.BootExample, Usage: "with the rules of `NAME`: " + strings.Join(policy.BootEngines(), ", "), Destination: &r.engine},
			&cli.StringFlag{Name: "tpm-policy", Usage: "by this `JSON`, as in '{\"7\": [\"HEX\"]}'", Destination: &r.tpmPolicy},
			&cli.StringFlag{Name: "ak", Usage: "signed by the AK in `FILE`: TPM2B_PUBLIC, in base64 or binary", Destination: &r.ak},
			&cli.StringFlag{Name: "nonce", Usage: "over the nonce `TEXT`", Destination: &r.nonce},
			&cli.BoolFlag{Name: "extended-templates", Usage: "read the templates of newer kernels, as a verifier with extended_ima_templates does", Destination: &r.extended},
			&cli.BoolFlag{Name: "no-ignore-tomtou", Usage: "measurement violations fail, as at a verifier with ignore_tomtou_errors = false", Destination: &r.strict},
			&cli.StringSliceFlag{Name: "snp-chain", Usage: "trust the ASK and ARK (PEM) in a file, as `PRODUCT=FILE`; may be repeated; without it those that AMD publishes"},
			&cli.StringFlag{Name: "snp-vcek-dir", Usage: "look for certificates (VCEK) of AMD processors in `DIR`", Destination: &r.vcekDir},
			&cli.BoolFlag{Name: "json", Usage: "print JSON", Destination: &r.json},
			&cli.StringFlag{Name: "ear-key", Usage: "print a token (EAR) signed with the EC private key (P-256, PEM) in `FILE`", Destination: &r.tokenKey},
		},
		HideHelpCommand: true,
		OnUsageError: func(_ *cli.Context, err error, _ bool) error {
			return usageError(err)
		},
		Action: func(c *cli.Context) error {
			if c.Args().Present() {
				return usageError(fmt.Errorf("%q is no flag; the file is given with --evidence", c.Args().First()))
			}
			r.chains = c.StringSlice("snp-chain")
			return r.run(c.Context, c.App.Writer, c.App.ErrWriter)
		},
	}
}

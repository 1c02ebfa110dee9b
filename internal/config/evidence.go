package config

import (
	"strings"
	"time"
)

// Evidence configures what a verifier appraises for others: evidence that they hand in, and what it tells of it.
type Evidence struct {
	Access    string // public, admin or off
	Slots     int    // requests under way at once
	RateLimit int    // requests per minute and address; 0 = any number

	TokenKey      string // private key that signs tokens; "" = no tokens
	TokenLifetime time.Duration

	SNPChains    []string // ASK and ARK by product, as PRODUCT=FILE; none = those that AMD publishes
	SNPVCEKDir   string   // certificates of processors' keys; "" = none
	SNPFetchVCEK bool     // ask AMD for those that are missing
}

func (e *Evidence) options() []option {
	return []option{
		{"evidence.access", oneOf(&e.Access, "public", "public", "admin", "off"), "who may have evidence appraised by verify/evidence and verify/identity: anyone, whoever has an administrator's certificate, or nobody"},
		{"evidence.slots", integer(&e.Slots, 2, 1, 1024), "such requests under way at once; each may take the time and several times the size of a body of max_upload_size"},
		{"evidence.rate_limit", integer(&e.RateLimit, 60, 0, 1_000_000), "such requests per minute and address; 0 = any number"},
		{"evidence.token_key", text(&e.TokenKey, "ear-key.pem"), "EC private key (P-256, PEM) that signs results asked for as tokens (EAR); made when it is not there; a relative path is under KEYLIME_DIR; empty = no tokens"},
		{"evidence.token_lifetime", seconds(&e.TokenLifetime, 5*time.Minute), "how long a token may be relied on, in seconds"},
		{"evidence.snp_chains", list(&e.SNPChains), "trusted ASK and ARK of AMD processors, as PRODUCT=FILE (PEM) with a product of Milan, Genoa and Turin; empty = those that AMD publishes, which are built in"},
		{"evidence.snp_vcek_dir", text(&e.SNPVCEKDir, ""), "directory with the certificates (VCEK) of AMD processors, for requests that bring none along; a relative path is under KEYLIME_DIR; empty = none"},
		{"evidence.snp_fetch_vcek", boolean(&e.SNPFetchVCEK, false), "ask AMD (kdsintf.amd.com) for a VCEK that is not in snp_vcek_dir, and keep it there"},
	}
}

func (e *Evidence) finish(dir string) []error {
	for _, path := range []*string{&e.TokenKey, &e.SNPVCEKDir} {
		if *path != "" {
			*path = under(dir, *path)
		}
	}
	var errs []error
	for i, chain := range e.SNPChains {
		product, file, ok := strings.Cut(chain, "=")
		if !ok || product == "" || file == "" {
			errs = append(errs, optionError("evidence.snp_chains", "%q: want PRODUCT=FILE, as in Milan=milan.pem", chain))
			continue
		}
		e.SNPChains[i] = product + "=" + under(dir, file)
	}
	if e.TokenLifetime <= 0 {
		errs = append(errs, optionError("evidence.token_lifetime", "must be more than 0"))
	}
	return errs
}

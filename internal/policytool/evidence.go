package policytool

import (
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/rs/zerolog"

	"keylime/internal/strictjson"
	"keylime/tpm"
)

// pcrOptions say what values PCRs have: those of a quote, or as they are typed.
type pcrOptions struct {
	quote string
	ak    string
	nonce string
	typed []string
}

func (o *pcrOptions) options() []option {
	return []option{
		{"quote", "", "FILE", "", "take the PCRs of the quote in `FILE`: r<..>:<..>:<..>, or an agent's answer that holds one", text(&o.quote)},
		{"ak", "", "FILE", "", "verify the quote's signature with the AK in `FILE`: TPM2B_PUBLIC, in base64 or binary", text(&o.ak)},
		{"nonce", "", "TEXT", "", "with --ak: the nonce that the quote must carry", text(&o.nonce)},
		{"pcr", "", "BANK:N=HEX", "", "take this value of PCR N, as in sha256:10=HEX; give it again for more", list(&o.typed)},
	}
}

// givenPCRs are PCR values; none without a quote and without typed ones.
type givenPCRs struct {
	bank   tpm.Hash // 0: nothing says
	values map[int][]byte
}

// read reads the values. What of them nobody vouches for is logged: a reader of a verdict must know.
func (o *pcrOptions) read(log zerolog.Logger) (givenPCRs, error) {
	switch {
	case o.quote != "" && len(o.typed) > 0:
		return givenPCRs{}, errors.New("give --quote or --pcr, not both: a quote says all that it covers")
	case o.quote == "" && (o.ak != "" || o.nonce != ""):
		return givenPCRs{}, errors.New("--ak and --nonce are for a quote: give --quote FILE")
	case o.ak == "" && o.nonce != "":
		return givenPCRs{}, errors.New("--nonce needs --ak: anyone can write a quote that nobody verifies")
	case o.quote != "":
		return o.readQuote(log)
	}
	return parsePCRs(o.typed)
}

func (o *pcrOptions) readQuote(log zerolog.Logger) (givenPCRs, error) {
	text, err := ReadInput(o.quote)
	if err != nil {
		return givenPCRs{}, err
	}
	quote, err := findQuote(text)
	if err != nil {
		return givenPCRs{}, fmt.Errorf("%s: %w", o.quote, err)
	}
	claims, err := tpm.ReadClaims(quote)
	if err != nil {
		return givenPCRs{}, fmt.Errorf("%s: %w", o.quote, err)
	}
	given := givenPCRs{claims.Bank, claims.PCRs}
	if o.ak == "" {
		log.Warn().Msg("note: the quote's signature was not verified, for there is no --ak; its PCRs are taken as given")
		return given, nil
	}
	return given, o.verify(quote, claims, log)
}

func (o *pcrOptions) verify(quote tpm.Quote, claims tpm.Claims, log zerolog.Logger) error {
	ak, err := ReadAK(o.ak)
	if err != nil {
		return fmt.Errorf("%s: %w", o.ak, err)
	}
	nonce := []byte(o.nonce)
	if o.nonce == "" {
		nonce = claims.Nonce
		log.Warn().Msg("note: any nonce was accepted, for there is no --nonce; the quote may be old")
	}
	var mask tpm.Mask
	for pcr := range claims.PCRs {
		mask = mask.With(pcr)
	}
	if _, err := tpm.VerifyQuote(ak, quote, tpm.Expected{Nonce: nonce, Mask: mask, Hash: claims.Bank}); err != nil {
		return fmt.Errorf("%s: %w", o.quote, err)
	}
	return nil
}

// findQuote reads a quote from its text, or from JSON that has it as "quote", alone or below "results".
func findQuote(content []byte) (tpm.Quote, error) {
	trimmed := strings.TrimSpace(string(content))
	if !strings.HasPrefix(trimmed, "{") {
		return tpm.ParseQuote(trimmed)
	}
	found := ""
	r := strictjson.NewReader(trimmed, maxNesting)
	var members func(name string) error
	members = func(name string) (err error) {
		switch {
		case name == "results" && r.Kind() == strictjson.Object:
			return r.Object(members)
		case name == "quote" && r.Kind() == strictjson.String:
			found, err = r.String()
			return err
		}
		return r.Skip()
	}
	err := r.Object(members)
	if err == nil {
		err = r.End()
	}
	switch {
	case err != nil:
		return tpm.Quote{}, err
	case found == "":
		return tpm.Quote{}, errors.New(`JSON without a "quote"; want what an agent answers, or the quote alone`)
	}
	return tpm.ParseQuote(found)
}

// ReadAK reads a TPM2B_PUBLIC, in base64 or binary, from a file.
func ReadAK(name string) (*tpm.Public, error) {
	content, err := ReadInput(name)
	if err != nil {
		return nil, err
	}
	if decoded, err := base64.StdEncoding.DecodeString(strings.TrimSpace(string(content))); err == nil {
		content = decoded
	}
	return tpm.ParsePublic(content)
}

// parsePCRs reads values of the form sha256:10=HEX, all of one bank.
func parsePCRs(typed []string) (givenPCRs, error) {
	given := givenPCRs{values: map[int][]byte{}}
	for _, t := range typed {
		bankName, rest, ok1 := strings.Cut(t, ":")
		number, digits, ok2 := strings.Cut(rest, "=")
		bank, err := tpm.ParseHash(bankName)
		if !ok1 || !ok2 || err != nil {
			return given, fmt.Errorf("--pcr %q: want BANK:N=HEX, as in sha256:10=1f2e…", t)
		}
		pcr, err := strconv.Atoi(number)
		if err != nil || !tpm.Mask(1<<24-1).Has(pcr) {
			return given, fmt.Errorf("--pcr %q: %q is not a number from 0 to 23", t, number)
		}
		value, err := hex.DecodeString(strings.TrimPrefix(digits, "0x"))
		if err != nil || len(value) != bank.Size() {
			return given, fmt.Errorf("--pcr %q: want %d hexadecimal digits, as a value of bank %s has", t, 2*bank.Size(), bankName)
		}
		switch {
		case given.bank != 0 && given.bank != bank:
			return given, fmt.Errorf("--pcr %q: the others are of bank %v; a quote has one", t, given.bank)
		case given.values[pcr] != nil:
			return given, fmt.Errorf("--pcr %q: PCR %d is given twice", t, pcr)
		}
		given.bank, given.values[pcr] = bank, value
	}
	return given, nil
}

package verifier

import (
	"bytes"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"strconv"
	"strings"

	"keylime/internal/api"
	"keylime/internal/attest"
	"keylime/internal/strictjson"
	"keylime/store"
	"keylime/tpm"
)

// Evidence is read in two steps: its form here, before anything is kept, so that a mistake can be mended while the
// challenge lives; then the core judges it. A measurement list may be the size of a whole request: of its text there is
// one decoded copy, and what is echoed is the very text that came.

// collected is the evidence of one request.
type collected struct {
	quote   tpm.Quote
	mask    tpm.Mask // PCRs that the quote says it covers; 0 when it is none
	ima     []byte
	hasIMA  bool
	bootLog string // base64
	hasBoot bool
	data    []json.RawMessage // by item, as it is shown
}

// asked is an item of an attestation with its parameters decoded.
type asked struct {
	store.EvidenceItem
	quote    api.QuoteParameters
	log      api.LogParameters
	reported *uint64 // entries of the log when it was offered
}

// readAsked decodes the items that were asked for.
func readAsked(items []store.EvidenceItem) ([]asked, error) {
	out := make([]asked, len(items))
	for i, item := range items {
		out[i].EvidenceItem = item
		var err error
		if item.Class == api.ClassCertification {
			err = json.Unmarshal(item.Chosen, &out[i].quote)
		} else {
			var given api.LogCapabilities
			if err = json.Unmarshal(item.Chosen, &out[i].log); err == nil {
				err = json.Unmarshal(item.Capabilities, &given)
			}
			out[i].reported = given.EntryCount
		}
		if err != nil {
			return nil, fmt.Errorf("parameters of %s in the attestation kept: %w", item.Type, err)
		}
	}
	return out, nil
}

// delivered is an item of a request: its data is still text.
type delivered struct{ class, kind, data string }

// readDelivered reads the list of evidence in a request's attributes.
func (f *form) readDelivered(attributes string) []delivered {
	var list []delivered
	found := false
	r := strictjson.NewReader(attributes, maxJSONDepth)
	_ = r.Object(func(name string) error {
		if name != "evidence_collected" {
			return r.Skip()
		}
		if found = r.Kind() != strictjson.Null; r.Kind() != strictjson.Array {
			if found {
				f.refuse(evidencePointer, notArray)
			}
			return r.Skip()
		}
		return r.Array(func() error {
			switch {
			case r.Kind() != strictjson.Object:
				f.refuse(evidencePointer, notObjects)
				return r.Skip()
			case len(list) == maxEvidenceItems:
				f.refuse(evidencePointer, wrongCount)
				return r.Skip()
			}
			item, err := readItem(r)
			list = append(list, item)
			return err
		})
	})
	if len(f.errors) == 0 && len(list) == 0 {
		f.refuse(evidencePointer, isRequired)
	}
	return list
}

// readItem reads one item without looking into its data.
func readItem(r *strictjson.Reader) (d delivered, err error) {
	err = r.Object(func(name string) error {
		switch {
		case name == "evidence_class" && r.Kind() == strictjson.String:
			d.class, err = r.String()
		case name == "evidence_type" && r.Kind() == strictjson.String:
			d.kind, err = r.String()
		case name == "data" && r.Kind() != strictjson.Null:
			d.data, err = r.Raw()
		default:
			return r.Skip()
		}
		return err
	})
	return d, err
}

// parseEvidence reads the attributes of a request, which are valid JSON, by what was asked for.
func parseEvidence(attributes string, items []asked) (collected, []api.ErrorItem) {
	f := &form{}
	list := f.readDelivered(attributes)
	if len(f.errors) == 0 && len(list) != len(items) {
		f.refuse(evidencePointer, wrongCount)
	}
	for i := range items {
		if len(f.errors) > 0 {
			break
		}
		if list[i].class != items[i].Class || list[i].kind != items[i].Type {
			f.refuse(evidencePointer, wrongOrder)
		}
	}
	if len(f.errors) > 0 {
		return collected{}, f.errors
	}
	c := collected{data: make([]json.RawMessage, len(items))}
	for i, item := range items {
		at := fmt.Sprintf("%s/%d/data", evidencePointer, i)
		switch {
		case list[i].data == "":
			f.refuse(at, isRequired)
		case list[i].data[0] != '{':
			f.refuse(at, notJSONObject)
		case item.Type == api.EvidenceQuote:
			c.data[i] = f.readQuote(&c, at, list[i].data, item.quote)
		default:
			c.data[i] = f.readLog(&c, at, list[i].data, item)
		}
	}
	return c, f.errors
}

// readQuote reads a quote. What TPMS_ATTEST and signature say is for the core to judge; the PCR values, which nobody
// signed, must be there as asked for.
func (f *form) readQuote(c *collected, at, text string, want api.QuoteParameters) json.RawMessage {
	if len(text) > maxQuoteData {
		f.refuse(at, tooLong)
		return nil
	}
	o := object{form: f, at: at}
	if err := json.Unmarshal([]byte(text), &o.members); err != nil {
		f.refuse(at, notJSONObject)
		return nil
	}
	c.quote.PCRBlob = o.binary("subject_data")
	c.quote.Attest = o.binary("message")
	c.quote.Signature = o.binary("signature")
	if len(f.errors) > 0 {
		return nil
	}
	bank, pcrs, err := tpm.ReadValues(c.quote.PCRBlob)
	if err != nil {
		f.refuse(at+"/subject_data", notBinary+": "+err.Error())
		return nil
	}
	for _, pcr := range want.Subjects[want.Hash] {
		if bank.String() != want.Hash || pcrs[pcr] == nil {
			f.refuse(at+"/subject_data", tooFewPCRs)
			return nil
		}
	}
	shown := api.QuoteData{
		Subjects:  base64.StdEncoding.EncodeToString(c.quote.PCRBlob),
		Message:   base64.StdEncoding.EncodeToString(c.quote.Attest),
		Signature: base64.StdEncoding.EncodeToString(c.quote.Signature),
	}
	if mask, clock, err := tpm.ReadSelection(c.quote.Attest); err == nil {
		c.mask, shown.Meta = mask, quoteMeta(bank, pcrs, clock)
	}
	return encodeJSON(shown)
}

// binary reads a member of bytes.
func (o object) binary(name string) []byte {
	s := o.text(name, true, maxQuoteData)
	b, ok := decodeBinary(s)
	if !ok {
		o.form.refuse(o.at+"/"+name, notBinary)
	}
	return b
}

// quoteMeta is what a quote says, as it is shown.
func quoteMeta(bank tpm.Hash, pcrs map[int][]byte, clock tpm.Clock) *api.QuoteMeta {
	values := make(map[string]string, len(pcrs))
	for pcr, v := range pcrs {
		values[strconv.Itoa(pcr)] = "0x" + hex.EncodeToString(v)
	}
	meta := &api.QuoteMeta{
		PCRs:  map[string]map[string]string{bank.String(): values},
		Clock: api.QuoteClock{Clock: clock.Clock, Resets: clock.ResetCount, Restarts: clock.RestartCount},
	}
	if clock.Safe {
		meta.Clock.Safe = 1
	}
	return meta
}

// readLog reads a log: IMA's lines as text, the boot log in base64.
func (f *form) readLog(c *collected, at, text string, item asked) json.RawMessage {
	var raw string // of the entries
	var entries []byte
	r := strictjson.NewReader(text, maxJSONDepth)
	err := r.Object(func(name string) (err error) {
		if name != "entries" || r.Kind() == strictjson.Null {
			return r.Skip()
		}
		if r.Kind() != strictjson.String {
			f.refuse(at+"/entries", wrongType)
			return r.Skip()
		}
		if raw, err = r.Raw(); err != nil {
			return err
		}
		entries, err = strictjson.NewReader(raw, 0).Text()
		return err
	})
	if err != nil {
		f.refuse(at, notJSONObject)
	}
	if item.Type == api.EvidenceBootLog {
		c.bootLog, c.hasBoot = string(entries), len(entries) > 0
		return logData(raw, len(entries), nil)
	}
	c.ima, c.hasIMA = entries, true
	lines := uint64(bytes.Count(entries, []byte("\n")))
	if want := missing(item); lines < want {
		f.refuse(at+"/entries", fmt.Sprintf(
			"must contain at least %d entries based on the total reported log length and chosen starting offset", want))
	}
	return logData(raw, len(entries), &lines)
}

// missing is the number of entries that the agent said it has beyond those that are proven.
func missing(item asked) uint64 {
	if item.reported == nil || item.log.Offset == nil || *item.reported < *item.log.Offset {
		return 0
	}
	return *item.reported - *item.log.Offset
}

// logData is a log as it is shown: its entries in the text that came, and null when there are none.
func logData(raw string, size int, lines *uint64) json.RawMessage {
	var b bytes.Buffer
	b.Grow(len(raw) + 64)
	b.WriteString("{")
	if lines != nil {
		fmt.Fprintf(&b, `"entry_count":%d,`, *lines)
	}
	b.WriteString(`"entries":`)
	if size == 0 {
		raw = "null"
	}
	b.WriteString(raw)
	b.WriteString("}")
	return b.Bytes()
}

// evidenceFor puts the evidence before the core, as what it was asked for.
func (c *collected) evidenceFor(items []asked, ak *tpm.Public) (attest.Evidence, *evidenceProblem) {
	e := attest.Evidence{Quote: c.quote, EncAlg: ak.EncAlg(), IMA: c.ima, HasIMA: c.hasIMA}
	for _, item := range items {
		switch item.Type {
		case api.EvidenceQuote:
			e.HashAlg, e.SignAlg = item.quote.Hash, item.quote.Scheme
		case api.EvidenceIMA:
			e.IMAEntry = *item.log.Offset
		}
	}
	if !c.hasBoot {
		return e, nil
	}
	log, problem := decodeBootLog(c.bootLog)
	e.BootLog = log
	return e, problem
}

// challengeFor is what the core holds the evidence to. Some agents extend PCR 16 with their AK's digest and quote it
// beside what they were asked for; a quote that says so is held to just that.
func (c *collected) challengeFor(items []asked) (attest.Challenge, error) {
	var ch attest.Challenge
	for _, item := range items {
		switch item.Type {
		case api.EvidenceQuote:
			nonce, err := base64.StdEncoding.DecodeString(item.quote.Challenge)
			if err != nil {
				return ch, fmt.Errorf("challenge in the attestation kept: %w", err)
			}
			ch.Nonce, ch.Mask = nonce, tpm.MaskOf(item.quote.Subjects[item.quote.Hash]...)
		case api.EvidenceIMA:
			ch.Entry = *item.log.Offset
		}
	}
	if c.mask == ch.Mask.With(tpm.PCRData) {
		ch.Mask = c.mask
	}
	return ch, nil
}

// failureReason sums up a bad verdict as the wire does.
func failureReason(failures []attest.Failure) string {
	for _, f := range failures {
		switch {
		case f.EventID == attest.EventQuoteValidation, f.EventID == attest.EventIMAPCRMismatch,
			strings.HasPrefix(f.EventID, attest.EventBootPCR):
			return "broken_evidence_chain"
		}
	}
	return "policy_violation"
}

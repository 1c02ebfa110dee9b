package policytool

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"strconv"

	"keylime/internal/uefi"
)

// eventLogRequest is what `eventlog` is asked for.
type eventLogRequest struct {
	files []string
	json  bool
}

func eventLogCommand() command {
	return command{
		path:      "eventlog",
		brief:     "show the events of a UEFI event log and the PCRs that they come to",
		arguments: "FILE",
		about: "Reads a binary event log, in the format of TCG 1.2 or the crypto-agile one, and replays it in each of its banks. What the\n" +
			"data of an event says is shown with how far it can be believed: bound (its digests are those of the data), mismatched\n" +
			"(they should be, and are not), hint (they are of something else), unmeasured.\n" +
			`JSON is {"pcrs": {BANK: {PCR: HEX}}, "events": [...]}, events as Keylime's tools show them.`,
		examples: []string{
			"keylime policy eventlog " + eventLog,
			"keylime policy eventlog --json eventlog.bin",
		},
		prepare: func(stdout io.Writer, _ *screen) call {
			r := &eventLogRequest{}
			return call{loose: &r.files, options: []option{
				{"json", "", "", "", "print JSON", on(&r.json)},
			}, run: func(context.Context) error { return r.run(stdout) }}
		},
	}
}

func (r *eventLogRequest) run(stdout io.Writer) error {
	if err := arguments(r.files, 1, 1, "one event log"); err != nil {
		return usageError("policy eventlog", "%w", err)
	}
	raw, err := ReadInput(r.files[0])
	if err != nil {
		return err
	}
	log, err := uefi.Parse(raw)
	if err != nil {
		return fmt.Errorf("%s: %w", r.files[0], err)
	}
	var banks []*uefi.PCRs
	for _, bank := range log.Banks() {
		pcrs, err := log.PCRs(bank)
		if err != nil {
			return fmt.Errorf("%s: %w", r.files[0], err)
		}
		banks = append(banks, pcrs)
	}
	if r.json {
		return printLogJSON(stdout, log, banks)
	}
	return printLog(stdout, log, banks)
}

func printLogJSON(w io.Writer, log *uefi.Log, banks []*uefi.PCRs) error {
	document, err := log.Document()
	if err != nil {
		return err
	}
	text, err := json.Marshal(document)
	if err != nil {
		return err
	}
	var out struct {
		PCRs   map[string]map[string]uefi.Hex `json:"pcrs"`
		Events json.RawMessage                `json:"events"`
	}
	var whole struct {
		Events json.RawMessage `json:"events"`
	}
	if err := json.Unmarshal(text, &whole); err != nil {
		return err
	}
	out.PCRs, out.Events = map[string]map[string]uefi.Hex{}, whole.Events
	for _, bank := range banks {
		values := map[string]uefi.Hex{}
		for _, pcr := range bank.Touched().PCRs() {
			values[strconv.Itoa(pcr)] = bank.Value(pcr)
		}
		out.PCRs[bank.Bank().String()] = values
	}
	return printJSON(w, out)
}

// bindings are how far the data of an event can be believed, in words.
var bindings = map[uefi.Binding]string{uefi.Bound: "bound", uefi.Mismatched: "MISMATCHED", uefi.Hint: "hint", uefi.Unmeasured: "unmeasured"}

func printLog(w io.Writer, log *uefi.Log, banks []*uefi.PCRs) error {
	out := bufio.NewWriter(w)
	if len(banks) > 0 {
		believed, err := uefi.Believe(log, banks[0].Bank())
		if err != nil {
			return err
		}
		for fact := range believed.Events() {
			if err := printFact(out, log.Events()[fact.Number()], fact); err != nil {
				return err
			}
		}
	}
	for _, bank := range banks {
		fmt.Fprintf(out, "\n%s\n", bank.Bank())
		for _, pcr := range bank.Touched().PCRs() {
			fmt.Fprintf(out, "  PCR %2d  %x\n", pcr, bank.Value(pcr))
		}
	}
	return out.Flush()
}

// printFact shows an event on a line, and what its data says on another.
func printFact(out io.Writer, event uefi.Event, fact uefi.Fact) error {
	fmt.Fprintf(out, "%4d  PCR %2d  %-32s %s\n", event.Number, event.PCR, event.Type, bindings[fact.Binding()])
	if event.Content == nil {
		return nil
	}
	content, err := json.Marshal(event.Content)
	if err != nil {
		return fmt.Errorf("event %d: %w", event.Number, err)
	}
	const most = 300
	if len(content) > most {
		content = append(bytes.ToValidUTF8(content[:most], nil), "…"...)
	}
	fmt.Fprintf(out, "        %s\n", Printable(string(content)))
	return nil
}

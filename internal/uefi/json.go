package uefi

import (
	"encoding/json"
	"math/big"
	"strconv"
)

// Document is the log as Keylime's tools show one: {"version": 2, "events": […], "pcrs": {bank: {pcr: number}},
// "boot_aggregates": {bank: [hex, hex]}}. It fails where Log.PCRs does.
func (l *Log) Document() (json.Marshaler, error) {
	events := make([]Object, 0, len(l.events))
	for i := range l.events {
		events = append(events, l.events[i].object())
	}
	pcrs, aggregates := Object{}, Object{}
	for _, bank := range l.banks {
		values, err := l.PCRs(bank)
		if err != nil {
			return nil, err
		}
		own := Object{}
		for _, pcr := range values.Touched().PCRs() {
			number := json.Number(new(big.Int).SetBytes(values.Value(pcr)).String())
			own = append(own, Field{strconv.Itoa(pcr), number})
		}
		sums := []Hex{}
		for _, sum := range values.Aggregates(1<<PCRCount - 1) {
			sums = append(sums, sum)
		}
		pcrs = append(pcrs, Field{bank.String(), own})
		aggregates = append(aggregates, Field{bank.String(), sums})
	}
	return Object{{"version", 2}, {"events", events}, {"pcrs", pcrs}, {"boot_aggregates", aggregates}}, nil
}

// MarshalJSON writes a digest as {"AlgorithmId": name, "Digest": hex}.
func (d Digest) MarshalJSON() ([]byte, error) {
	return Object{{"AlgorithmId", algorithmName(d.Alg)}, {"Digest", d.Value}}.MarshalJSON()
}

// object is the event as Keylime's tools show it; the header of a crypto-agile log has no digests but SpecID.
func (e *Event) object() Object {
	o := Object{{"EventNum", e.Number}, {"PCRIndex", e.PCR}, {"EventType", e.Type.String()}}
	if e.spec != nil {
		return append(o, Field{"Digest", e.Digests[0].Value}, Field{"EventSize", len(e.Data)}, Field{"SpecID", []Object{e.spec.object()}})
	}
	o = append(o, Field{"DigestCount", len(e.Digests)}, Field{"Digests", e.Digests}, Field{"EventSize", len(e.Data)})
	if len(e.Data) > 0 {
		o = append(o, Field{"Event", e.Content})
	}
	return o
}

func (s *SpecID) object() Object {
	algorithms := make([]Object, 0, len(s.Algorithms))
	for i, a := range s.Algorithms {
		algorithms = append(algorithms, Object{{"Algorithm[" + strconv.Itoa(i) + "]", Object{
			{"algorithmId", algorithmName(a.ID)}, {"digestSize", a.Size}}}})
	}
	return Object{{"platformClass", s.PlatformClass}, {"specVersionMinor", s.VersionMinor}, {"specVersionMajor", s.VersionMajor},
		{"specErrata", s.VersionErr}, {"uintnSize", s.UintnSize}, {"numberOfAlgorithms", len(s.Algorithms)},
		{"Algorithms", algorithms}, {"vendorInfoSize", len(s.Vendor)}, {"vendorInfo", s.Vendor}}
}

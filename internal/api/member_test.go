package api

import (
	"bufio"
	"encoding/json"
	"io"
	"strings"
	"testing"
)

func find(text, name string, max int) (string, error) {
	value, err := findMember(bufio.NewReader(strings.NewReader(text)), name, max)
	return string(value), err
}

func TestFindMember(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ what, text, want string }{
		{"behind an object", `{"data":{"meta":1,"x":"}"},"meta":{"a":[1,{"b":"]"}]}}`, `{"a":[1,{"b":"]"}]}`},
		{"behind a string with quotes", `{"data":"\"meta\":2,\\","meta":3}`, `3`},
		{"first, and nothing after it is read", `{"meta":"x" garbage`, `"x"`},
		{"with blanks", " {\n \"a\" : [ ] ,\t\"meta\" : { } }", `{ }`},
		{"a number before a comma", `{"meta":12,"z":1}`, `12`},
		{"a longer name", `{"metadata":1,"meta":2}`, `2`},
	} {
		if got, err := find(c.text, "meta", 100); err != nil || got != c.want {
			t.Errorf("%s: %q, %v; want %q", c.what, got, err, c.want)
		}
	}
	for _, text := range []string{``, `[]`, `{`, `{}`, `{"data":{}}`, `{"meta"`, `{"meta":`, `{"meta":{`, `{"meta":"`, `{1:2}`, `{"meta" 1}`, `{"meta":"` + strings.Repeat("x", 200) + `"}`} {
		if got, err := find(text, "meta", 100); err == nil {
			t.Errorf("%.30q: found %q", text, got)
		}
	}
}

// What is found in a valid document is what encoding/json finds.
func FuzzFindMember(f *testing.F) {
	for _, seed := range []string{`{"meta":1}`, `{"a":{"b":[{},"\\\""]},"meta":{"x":null}}`, `{"meta":"\u0041","b":[]}`, `{"a":1e3,"meta":true }`} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		got, err := find(text, "meta", 1<<20)
		var want map[string]json.RawMessage
		if strings.Count(text, "meta") != 1 || json.Unmarshal([]byte(text), &want) != nil || want["meta"] == nil {
			return
		}
		if err != nil || strings.TrimSpace(got) != string(want["meta"]) {
			t.Errorf("%q: %q, %v; want %q", text, got, err, want["meta"])
		}
	})
}

// The evidence that comes back before what is looked for costs no memory.
func TestFindMemberKeepsNothingElse(t *testing.T) {
	log := strings.Repeat(`10 0123456789abcdef ima-ng sha256:00 /usr/bin/\"x\"\n`, 1000)
	text := func() *bufio.Reader {
		parts := []io.Reader{strings.NewReader(`{"data":"`)}
		for range 200 {
			parts = append(parts, strings.NewReader(log))
		}
		return bufio.NewReader(io.MultiReader(append(parts, strings.NewReader(`","meta":{"seconds_to_next_attestation":7}}`))...))
	}
	in := text()
	var m Meta
	allocs := testing.Benchmark(func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			in = text()
			m = readMeta(in)
		}
	}).AllocedBytesPerOp()
	if m.SecondsToNext == nil || *m.SecondsToNext != 7 {
		t.Errorf("read %+v", m)
	}
	if allocs > 256<<10 {
		t.Errorf("10 MB of evidence cost %d bytes", allocs)
	}
}

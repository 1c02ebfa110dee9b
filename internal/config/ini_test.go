package config

import (
	"bytes"
	"encoding/json"
	"os/exec"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestParseINI(t *testing.T) {
	t.Parallel()
	const text = "# comment\n; comment\n[verifier]\nPort = 8881\nip: \"::1\"\n  # indented comment\na = v ; x # y\n" +
		"p = 100%\nurl = http://x:1/?a=b\nempty =\nlist = ['a',\n   'b',\n\n   'c']\nnext=1\n\n[revocations] trailing\nzmq_port=1\r\n  [x] = y\n"
	want := []iniOption{
		{"verifier", "port", "8881", 4},
		{"verifier", "ip", `"::1"`, 5},
		{"verifier", "a", "v ; x # y", 7},
		{"verifier", "p", "100%", 8},
		{"verifier", "url", "http://x:1/?a=b", 9},
		{"verifier", "empty", "", 10},
		{"verifier", "list", "['a',\n'b',\n\n'c']", 11},
		{"verifier", "next", "1", 15},
		{"revocations", "zmq_port", "1\n[x] = y", 18},
	}
	got, err := parseINI(text)
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(want, got, cmp.AllowUnexported(iniOption{})); d != "" {
		t.Error(d)
	}
}

func TestParseINIRefuses(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{
		"a = 1\n":            "line 1: option before",
		"[s]\na = 1\nA: 2\n": "line 3: [s] a stands here a second time, first in line 2",
		"[s]\na=1\n[s]\n":    "line 3: [s] stands here a second time",
		"[s]\njust words\n":  `line 2: neither a [section] nor an option with a value: "just words"`,
		"[s]\n= 1\n":         "line 2: value without an option",
		"[]\na=1\n":          "line 1:",
	} {
		if _, err := parseINI(text); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: error %v, want %q", text, err, want)
		}
	}
}

// Python's own parser is the reference where a python3 is at hand.
func TestParseINIAgreesWithPython(t *testing.T) {
	t.Parallel()
	python, err := exec.LookPath("python3")
	if err != nil {
		t.Skip("no python3 to compare with")
	}
	const program = `import configparser, json, sys
def read(text):
    p = configparser.RawConfigParser()
    try:
        p.read_string(text)
    except configparser.Error:
        return None
    return [[s, k, v] for s in p.sections() for k, v in p.items(s)]
print(json.dumps([read(text) for text in json.load(sys.stdin)]))`
	input, err := json.Marshal(iniSeeds)
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(python, "-c", program)
	cmd.Stdin = bytes.NewReader(input)
	out, err := cmd.Output()
	if err != nil {
		t.Fatal(err)
	}
	var results []*[][3]string // null = refused
	if err := json.Unmarshal(out, &results); err != nil {
		t.Fatal(err)
	}
	for i, text := range iniSeeds {
		got, err := parseINI(text)
		if (err == nil) != (results[i] != nil) {
			t.Errorf("%q: error %v here, %v in Python", text, err, results[i])
			continue
		}
		if err != nil {
			continue
		}
		mine := [][3]string{}
		for _, o := range got {
			mine = append(mine, [3]string{o.section, o.name, o.value})
		}
		if d := cmp.Diff(*results[i], mine); d != "" {
			t.Errorf("%q: %s", text, d)
		}
	}
}

var iniSeeds = []string{
	"", "[a]\n", "[a]\nb=c\n", "[a]\nb = c\n d\n", "[a]\nb = c\n\n d\n\n\n[e]\nf: g\n", "[a]\nB = 1\nb = 2\n", "x = 1\n", "[a]\nb\n",
	"[a]\n  b = 1\n c = 2\n", "[a]\n  b = 1\n  c = 2\n   d\n", "[a]\nb = 1\n# c\n  d\n", "[a]\nb = 1\n  # c\n  d\n", "[a]b]\nc = d\n",
	"[a]\n[a]\n", "[a]\n=1\n", "[a]\nb == c\n", "[a]\nb := c\n", "[a]\nb : = c\n", "[a]\nb\t=\tc\t\n", "[a]\nb = \"c\"\n", "[a]\nb = \n c\n",
	"[a]\nb=c;d\n", "[a]\n;b=c\nd=e\n", "[a]\nb = 1\n[c]\n d = 2\n", "[a]\nb = c\n\td\n", "[ a ]\nb=c\n", "[a]\nb=c\n [d]\n",
}

func FuzzParseINI(f *testing.F) {
	for _, s := range iniSeeds {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, text string) {
		options, err := parseINI(text)
		if err != nil {
			return
		}
		seen := map[[2]string]bool{}
		for _, o := range options {
			key := [2]string{o.section, o.name}
			if seen[key] || o.name == "" || o.section == "" || o.line < 1 {
				t.Fatalf("bad option %+v", o)
			}
			seen[key] = true
		}
	})
}

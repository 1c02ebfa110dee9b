package agent

import (
	"bytes"
	"encoding/json"
	"testing"
)

// FuzzJSONText: the text between quotes decodes to what encoding/json makes of the same bytes, wherever they are split.
func FuzzJSONText(f *testing.F) {
	for _, seed := range []string{"", "10 aa ima-ng sha256:bb /bin/true\n", `"\/`, "\x00\x1f\x7f", "grün 漢 🙂", "\xff\xc3", "\xe2\x82", "\u2028<&>"} {
		f.Add([]byte(seed), 1)
	}
	f.Fuzz(func(t *testing.T, in []byte, split int) {
		var out bytes.Buffer
		text := &jsonText{w: &out}
		if split < 0 || split > len(in) {
			split = len(in) / 2
		}
		for _, part := range [][]byte{in[:split], in[split:]} {
			if n, err := text.Write(part); n != len(part) || err != nil {
				t.Fatalf("Write = %d, %v", n, err)
			}
		}
		if err := text.Close(); err != nil {
			t.Fatal(err)
		}
		var got string
		if err := json.Unmarshal([]byte(`"`+out.String()+`"`), &got); err != nil {
			t.Fatalf("%q is no JSON string: %v", out.String(), err)
		}
		reference, err := json.Marshal(string(in))
		if err != nil {
			t.Fatal(err)
		}
		var want string
		if err := json.Unmarshal(reference, &want); err != nil {
			t.Fatal(err)
		}
		if got != want {
			t.Fatalf("%q became %q, want %q", in, got, want)
		}
	})
}

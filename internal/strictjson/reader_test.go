package strictjson

import (
	"encoding/json"
	"errors"
	"reflect"
	"strings"
	"testing"
)

func TestCheckAccepts(t *testing.T) {
	t.Parallel()
	for _, doc := range []string{
		`{}`, `[]`, `""`, `0`, `-0`, `1e5`, `1.5E-3`, `true`, `false`, `null`, " \t\r\n[1 , 2]\n",
		`{"a":{"a":[{"a":null}]},"b":"é\u00e9\n\"\\\/\ud83d\ude00"}`, `"\u0000"`, `1e999`,
	} {
		if err := Check([]byte(doc), 8); err != nil {
			t.Errorf("%s: %v", doc, err)
		}
	}
}

// NT-41
func TestCheckRefuses(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ doc, want string }{
		{``, "byte 0: document ends where a value is wanted"},
		{`{`, "byte 1: want a string"},
		{`{"a"}`, "byte 4: want ':' after a name"},
		{`{"a":}`, "byte 5: want a value"},
		{`{"a":1,}`, "byte 7: want a string"},
		{`{"a":1 "b":2}`, `byte 7: want ',' or '}'`},
		{`{"a":1,"b":2,"\u0061":3}`, `byte 13: name "a" stands twice in one object`},
		{`[1,]`, "byte 3: want a value"},
		{`[1`, `byte 2: want ',' or ']'`},
		{`[[[[[1]]]]]`, "byte 5: nested too deeply"},
		{`{"a":{"a":{"a":{"a":{}}}}}`, "byte 21: nested too deeply"},
		{`1 2`, "byte 2: data after the value"},
		{`01`, "byte 1: data after the value"},
		{`-`, "byte 1: want a number"},
		{`1.`, "byte 2: want digits after the decimal point"},
		{`1e+`, "byte 3: want digits in the exponent"},
		{`tru`, "byte 0: want true or false"},
		{`nul`, "byte 0: want null"},
		{`NaN`, "byte 0: want a value"},
		{`'a'`, "byte 0: want a value"},
		{`"a`, "byte 2: string does not end"},
		{`"\n`, "byte 3: string does not end"},
		{`"\`, "byte 1: string does not end"},
		{`"\q"`, "byte 1: unknown escape sequence"},
		{`"\u12"`, "byte 1: string does not end"},
		{`"\u12x4"`, "byte 1: want four hex digits after \\u"},
		{`"\u+123"`, "byte 1: want four hex digits after \\u"},
		{`"\ud800"`, "byte 7: lone surrogate"},
		{`"\ud800\u0041"`, "byte 13: lone surrogate"},
		{`"\udc00"`, "byte 7: lone surrogate"},
		{"\"\xff\"", "byte 2: string is not valid UTF-8"},
		{"\"\\n\xc3\"", "byte 4: string is not valid UTF-8"},
		{"\"\x01\"", "byte 1: control character in a string"},
		{"\"\\n\x01\"", "byte 3: control character in a string"},
		{"\ufeff{}", "byte 0: want a value"},
		{`{"` + strings.Repeat("é", 50) + `":1,"` + strings.Repeat("é", 50) + `":1}`,
			`byte 106: name "` + strings.Repeat("é", 20) + `…" stands twice in one object`},
	} {
		err := Check([]byte(c.doc), 4)
		var syntax *Error
		if !errors.As(err, &syntax) || err.Error() != c.want {
			t.Errorf("%s: got %v, want %s", c.doc, err, c.want)
		}
	}
}

func TestNestingCostsNoStack(t *testing.T) {
	t.Parallel()
	if err := Check([]byte(strings.Repeat("[", 100_000)), 32); err == nil {
		t.Error("accepted")
	}
}

func TestReaderReadsValues(t *testing.T) {
	t.Parallel()
	r := NewReader(`{"s":"x","n":-1.5,"b":[true,false],"z":null,"raw": {"k": [1]} }`, 4)
	got := map[string]any{}
	err := r.Object(func(name string) (err error) {
		switch name {
		case "s":
			got[name], err = r.String()
		case "n":
			got[name], err = r.Number()
		case "b":
			var list []bool
			err = r.Array(func() error {
				b, err := r.Bool()
				list = append(list, b)
				return err
			})
			got[name] = list
		case "z":
			err = r.Null()
		case "raw":
			got[name], err = r.Raw()
		}
		return err
	})
	if err == nil {
		err = r.End()
	}
	want := map[string]any{"s": "x", "n": "-1.5", "b": []bool{true, false}, "raw": `{"k": [1]}`}
	if err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("got %v, %v", got, err)
	}
}

func TestReaderHoldsCallersToReading(t *testing.T) {
	t.Parallel()
	r := NewReader(`[1]`, 4)
	if err := r.Array(func() error { return nil }); err == nil {
		t.Error("a callback that reads nothing goes unnoticed")
	}
}

func TestFirstErrorIsFinal(t *testing.T) {
	t.Parallel()
	r := NewReader(`[x, 1]`, 4)
	first := r.Array(func() error { return r.Skip() })
	if first == nil {
		t.Fatal("accepted")
	}
	_, number := r.Number()
	_, text := r.String()
	_, boolean := r.Bool()
	_, raw := r.Raw()
	for _, err := range []error{number, text, boolean, raw, r.Null(), r.Skip(), r.End(), r.Object(nil), r.Array(nil)} {
		if err != first {
			t.Errorf("got %v after %v", err, first)
		}
	}
	refused := errors.New("refused by the caller")
	r = NewReader(`[1]`, 4)
	if err := r.Array(func() error { return refused }); err != refused || r.End() != refused {
		t.Errorf("the caller's error is lost: %v, %v", err, r.End())
	}
}

// FuzzCheck: what is accepted is JSON to encoding/json too, and strings and numbers come out the same.
func FuzzCheck(f *testing.F) {
	for _, doc := range []string{
		`{"a":[1,2.5e-3,"\ud83d\ude00",true,null],"b":{}}`, `"\u00e9"`, `{"a":1,"a":2}`, `[[[[]]]]`, ` 0 `, "\"\xff\"",
	} {
		f.Add([]byte(doc))
	}
	f.Fuzz(func(t *testing.T, doc []byte) {
		err := Check(doc, 16)
		if err == nil && !json.Valid(doc) {
			t.Fatalf("%q is not JSON", doc)
		}
		r := NewReader(string(doc), 16)
		if r.Kind() != String || err != nil {
			return
		}
		var want string
		if err := json.Unmarshal(doc, &want); err != nil {
			t.Fatal(err)
		}
		if got, err := r.String(); err != nil || got != want {
			t.Fatalf("%q reads as %q, %v; want %q", doc, got, err, want)
		}
	})
}

// Text reads what String reads, and Skip takes what they take.
func TestTextReadsWhatStringReads(t *testing.T) {
	t.Parallel()
	for _, doc := range []string{
		`""`, `"plain"`, `"10 ab ima-ng /a\n10 cd ima-ng /b\n"`, `"\"\\\/\b\f\n\r\t"`, `"\u00e9 é \ud83d\ude00"`, `"ends in \\"`,
		`"open`, `"\`, `"\"`, `"\x"`, `"\ud800"`, "\"\xff\"", "\"a\nb\"", `x`, ``, `7`,
	} {
		want, wantErr := NewReader(doc, 1).String()
		got, err := NewReader(doc, 1).Text()
		if string(got) != want || (err == nil) != (wantErr == nil) {
			t.Errorf("%q: Text reads %q %v, String %q %v", doc, got, err, want, wantErr)
		}
		if strings.HasPrefix(doc, `"`) && (NewReader(doc, 1).Skip() == nil) != (wantErr == nil) {
			t.Errorf("%q: Skip and String disagree", doc)
		}
	}
}

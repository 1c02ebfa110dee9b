package python

import (
	"encoding/json"
	"strings"
	"testing"
)

// Each row is what Python 3 prints for the document: json.dumps(json.loads(doc)) and print(json.loads(doc)).
func TestNotationsArePythons(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ doc, dumps, repr string }{
		{`{}`, `{}`, `{}`},
		{`[]`, `[]`, `[]`},
		{`{"code":201,"status":"Created","results":{}}`, `{"code": 201, "status": "Created", "results": {}}`, `{'code': 201, 'status': 'Created', 'results': {}}`},
		{`{"z":null,"a":[true,false,[1,-2.5]]}`, `{"z": null, "a": [true, false, [1, -2.5]]}`, `{'z': None, 'a': [True, False, [1, -2.5]]}`},
		{`"it's"`, `"it's"`, `"it's"`},
		{`"say \"x\""`, `"say \"x\""`, `'say "x"'`},
		{`"it's \"x\""`, `"it's \"x\""`, `'it\'s "x"'`},
		{`"back\\slash\n\t\r\b\f\u0001"`, `"back\\slash\n\t\r\b\f\u0001"`, `'back\\slash\n\t\r\x08\x0c\x01'`},
		{`"é ü 中 😀"`, `"\u00e9 \u00fc \u4e2d \ud83d\ude00"`, `'é ü 中 😀'`},
		{`"\u007f\u00a0\u202e\u00ad"`, `"\u007f\u00a0\u202e\u00ad"`, `'\x7f\xa0\u202e\xad'`},
		{`"</script>&"`, `"</script>&"`, `'</script>&'`},
	} {
		dumps, err := JSON.Render([]byte(c.doc))
		if err != nil || dumps != c.dumps {
			t.Errorf("%s: json.dumps: got %s, %v, want %s", c.doc, dumps, err, c.dumps)
		}
		repr, err := Repr.Render([]byte(c.doc))
		if err != nil || repr != c.repr {
			t.Errorf("%s: repr: got %s, %v, want %s", c.doc, repr, err, c.repr)
		}
	}
}

func TestNotationRefusesWhatIsNoJSON(t *testing.T) {
	t.Parallel()
	for _, doc := range []string{"", "{", `{"a"}`, strings.Repeat("[", 100000)} {
		if got, err := JSON.Render([]byte(doc)); err == nil {
			t.Errorf("%.20q: rendered as %.20q", doc, got)
		}
	}
}

// FuzzNotation: json.dumps is JSON of the same value, and nothing panics.
func FuzzNotation(f *testing.F) {
	for _, doc := range []string{`{"a":[1,"x",null,true,{"b":-1e9}]}`, `"it's \"q\" \\ \u0000 é 😀"`, `[[],{}]`, `nul`, `{"a":`} {
		f.Add([]byte(doc))
	}
	f.Fuzz(func(t *testing.T, doc []byte) {
		dumps, err := JSON.Render(doc)
		if err != nil {
			return
		}
		again, err := JSON.Render([]byte(dumps))
		if err != nil || again != dumps {
			t.Errorf("%q renders as %q, and that as %q, %v", doc, dumps, again, err)
		}
		if !json.Valid([]byte(dumps)) {
			t.Errorf("%q renders as %q, which is no JSON", doc, dumps)
		}
		if _, err := Repr.Render(doc); err != nil {
			t.Errorf("%q has a dump but no repr: %v", doc, err)
		}
	})
}

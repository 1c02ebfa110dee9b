package jsonapi_test

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"keylime/internal/jsonapi"
)

func ExampleParse() {
	sent, err := jsonapi.Parse(`{"data": {"type": "agent", "id": "a1", "attributes": {"port": 9002}}}`)
	fmt.Println(sent.Type, sent.ID, sent.Attributes, err)
	// Output: agent a1 {"port": 9002} <nil>
}

// documents are bodies, and what is wrong with them; "" = nothing.
var documents = map[string]string{
	`{"data":{"type":"a"}}`:                                            "",
	`{"data":[{"type":"a"}]}`:                                          "",
	`{"data":{"type":"a","links":{"self":"x"},"meta":{"m":1}}}`:        "",
	`{"data":{"type":"a"},"jsonapi":{"version":"1.1"},"meta":{"m":1}}`: "",
	`{}`:                                   "no data",
	`[]`:                                   "want an object",
	``:                                     "want an object",
	`{"data":{"type":"a"}} `:               "",
	`{"data":{"type":"a"}}{}`:              "byte",
	`{"data":{}}`:                          "no type",
	`{"data":{"type":""}}`:                 "no type",
	`{"data":{"type":7}}`:                  "string",
	`{"data":null}`:                        "want an object",
	`{"data":[]}`:                          "0 resources, want one",
	`{"data":[{"type":"a"},{"type":"b"}]}`: "2 resources, want one",
	`{"data":{"type":"a"},"data":{"type":"b"}}`:    "twice",
	`{"data":{"type":"a","id":""}}`:                "id is empty",
	`{"data":{"type":"a","id":null}}`:              "string",
	`{"data":{"type":"a","attributes":[]}}`:        "attributes are no object",
	`{"data":{"type":"a","attributes":null}}`:      "attributes are no object",
	`{"data":{"type":"a","relationships":{}}}`:     `"relationships" is no member of a resource`,
	`{"data":{"type":"a"},"included":[]}`:          `"included" is no member of a document`,
	`{"data":{"type":"a"},"meta":{}}`:              "meta is empty",
	`{"data":{"type":"a","links":null}}`:           "links is empty",
	`{"data":` + strings.Repeat("[", 40) + ``:      "deep",
	`{"data":{"type":"a","attributes":{"a":1}}, }`: "byte",
}

func TestParse(t *testing.T) {
	t.Parallel()
	for text, wrong := range documents {
		_, err := jsonapi.Parse(text)
		if (err != nil) != (wrong != "") || err != nil && !strings.Contains(err.Error(), wrong) {
			t.Errorf("%s: got %v, want %q", text, err, wrong)
		}
	}
}

// FuzzParse holds that what is read is JSON that other decoders read alike.
func FuzzParse(f *testing.F) {
	for text := range documents {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		sent, err := jsonapi.Parse(text)
		if err != nil {
			return
		}
		if !json.Valid([]byte(text)) || sent.Type == "" || sent.Attributes != "" && !json.Valid([]byte(sent.Attributes)) {
			t.Errorf("%q read as %+v", text, sent)
		}
	})
}

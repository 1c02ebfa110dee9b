package strictjson_test

import (
	"bytes"
	"encoding/json"
	"reflect"
	"strings"
	"testing"

	"keylime/internal/strictjson"
)

// NT-41
func TestCheckRefuses(t *testing.T) {
	t.Parallel()
	tests := []struct{ name, text, reason string }{
		{"nothing", "", "ends where a value"},
		{"spaces only", " \n", "ends where a value"},
		{"trailing garbage", `{} x`, "follows the value"},
		{"two values", `{}{}`, "follows the value"},
		{"trailing NUL", "{}\x00", "follows the value"},
		{"duplicate member", `{"a":1,"a":2}`, "appears twice"},
		{"duplicate member spelt with an escape", `{"a":1,"\u0061":2}`, "appears twice"},
		{"duplicate member, nested", `[{"x":{"a":1,"a":2}}]`, "appears twice"},
		{"duplicate among many", `{` + manyMembers(60) + `,"m7":0}`, "appears twice"},
		{"depth", strings.Repeat("[", 65) + strings.Repeat("]", 65), "nested deeper"},
		{"depth 100,000", strings.Repeat(`{"a":`, 100_000), "nested deeper"},
		{"infinite number", `1e999`, "out of range"},
		{"infinite number, many digits", strings.Repeat("9", 400), "out of range"},
		{"lone high surrogate", `"\ud800"`, "lone surrogate"},
		{"lone low surrogate", `"\udc00"`, "lone surrogate"},
		{"two high surrogates", `"\ud800\ud800"`, "lone surrogate"},
		{"invalid UTF-8", "\"\xff\"", "invalid UTF-8"},
		{"control character", "\"a\nb\"", "control character"},
		{"unknown escape", `"\x41"`, "unknown escape"},
		{"short unicode escape", `"\u12"`, "four hex digits"},
		{"no closing quote", `"abc`, "without end"},
		{"backslash at the end", `"abc\`, "without end"},
		{"leading zero", `01`, "leading zero"},
		{"plus sign", `+1`, "expected a value"},
		{"bare minus", `-`, "expected a digit"},
		{"no fraction digits", `1.`, "expected a digit"},
		{"no exponent digits", `1e`, "expected a digit"},
		{"NaN", `NaN`, "expected a value"},
		{"trailing comma in object", `{"a":1,}`, "expected a member name"},
		{"trailing comma in array", `[1,]`, "expected a value"},
		{"missing colon", `{"a" 1}`, "expected :"},
		{"single quotes", `{'a':1}`, "expected a member name"},
		{"cut literal", `tru`, "expected true"},
		{"comment", `/* */ {}`, "expected a value"},
		{"open array", `[1`, "expected , or ]"},
		{"open object", `{"a":1`, "expected , or }"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			err := strictjson.Check([]byte(tt.text))
			if err == nil || !strings.Contains(err.Error(), tt.reason) {
				t.Fatalf("Check = %v, want an error with %q", err, tt.reason)
			}
		})
	}
}

func manyMembers(n int) string {
	parts := make([]string, n)
	for i := range parts {
		parts[i] = `"m` + string(rune('0'+i%10)) + strings.Repeat("_", i/10) + `":0`
	}
	return strings.Join(parts, ",")
}

func TestCheckAccepts(t *testing.T) {
	t.Parallel()
	for _, text := range []string{
		`null`, `true`, ` false `, `0`, `-0`, `-12.5e-3`, `1E+2`, `""`, `"\ud83d\ude00 é \/"`, `[]`, `{}`,
		`{"a":{"a":[{"a":null}]}}`, `{"a":1,"A":2}`, `{` + manyMembers(60) + `}`,
		strings.Repeat("[", 64) + strings.Repeat("]", 64),
	} {
		if err := strictjson.Check([]byte(text)); err != nil {
			t.Errorf("Check(%.40s) = %v", text, err)
		}
	}
}

func TestUnmarshalNamesMustBeSpeltExactly(t *testing.T) {
	t.Parallel()
	var got struct {
		AuthTag string `json:"auth_tag"`
	}
	if err := strictjson.Unmarshal([]byte(`{"auth_tag":"x","other":1}`), &got); err != nil || got.AuthTag != "x" {
		t.Fatalf("Unmarshal = %v, %+v", err, got)
	}
	for _, text := range []string{`{"AUTH_TAG":"x"}`, `{"auth_tag":"x","Auth_Tag":"y"}`, `null`, `["x"]`} {
		if err := strictjson.Unmarshal([]byte(text), &got); err == nil {
			t.Errorf("Unmarshal(%s) was accepted", text)
		}
	}
}

func TestObjectHandsOutMembersInOrder(t *testing.T) {
	t.Parallel()
	var names []string
	var text string
	err := strictjson.Object([]byte(`{"z": "a\nb\ud83d\ude00", "a": [1, 2], "n": null}`), func(name string, value []byte) error {
		names = append(names, name+"="+strictjson.Kind(value))
		if name == "z" {
			var err error
			text, err = strictjson.String(value)
			return err
		}
		return nil
	})
	if err != nil || text != "a\nb😀" {
		t.Fatalf("Object = %v, %q", err, text)
	}
	if want := []string{"z=a string", "a=an array", "n=null"}; !reflect.DeepEqual(names, want) {
		t.Fatalf("members %q, want %q", names, want)
	}
	if _, err := strictjson.String([]byte("12")); err == nil {
		t.Error("a number passed as a string")
	}
}

// Whatever Check accepts encoding/json accepts too, and both read strings alike.
func FuzzCheck(f *testing.F) {
	for _, s := range []string{
		`{"code":200,"status":"Success","results":{"quote":"r/1R:AB:CD","n":[1,-2.5e3,true,null]}}`,
		`"\ud83d\ude00\n\u00e9"`, `{"a":1,"a":2}`, `[[[]]]`, `"\ud800"`, `1e999`, "\"\xff\"", `{"":""}`,
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		if strictjson.Check(data) != nil {
			return
		}
		var v any
		if err := json.Unmarshal(data, &v); err != nil {
			t.Fatalf("accepted %q, which encoding/json refuses: %v", data, err)
		}
		trimmed := bytes.TrimSpace(data)
		if want, ok := v.(string); ok {
			if got, err := strictjson.String(trimmed); err != nil || got != want {
				t.Fatalf("String(%q) = %q, %v, want %q", trimmed, got, err, want)
			}
		}
	})
}

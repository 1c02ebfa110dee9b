package strictjson_test

import (
	"testing"

	"keylime/internal/strictjson"
)

// NT-41
func TestUnmarshal(t *testing.T) {
	t.Parallel()
	tests := map[string]struct {
		doc string
		ok  bool
	}{
		"exact names, unknown ones ignored": {`{"auth_tag":"x","count":3,"other":[{}]}`, true},
		"another case":                      {`{"AUTH_TAG":"x"}`, false},
		"both cases":                        {`{"auth_tag":"x","Auth_Tag":"y"}`, false},
		"name twice":                        {`{"auth_tag":"x","auth_tag":"x"}`, false},
		"null for an object":                {`null`, false},
		"an array for an object":            {`["x"]`, false},
		"another type":                      {`{"auth_tag":{}}`, false},
		"number beyond every range":         {`{"count":1e999}`, false},
		"nested too deeply":                 {`{"other":[[[[[]]]]]}`, false},
		"data after it":                     {`{"auth_tag":"x"} {}`, false},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var got struct {
				AuthTag string `json:"auth_tag"`
				Count   int    `json:"count"`
			}
			err := strictjson.Unmarshal([]byte(tt.doc), 5, &got)
			if (err == nil) != tt.ok {
				t.Fatalf("Unmarshal(%s) = %v", tt.doc, err)
			}
			if tt.ok && got.AuthTag != "x" {
				t.Fatalf("decoded %+v", got)
			}
		})
	}
}

package agent

import (
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"testing"
)

// vectors is the folder of recorded exchanges beside the project; without it the test is skipped.
func vectors(t testing.TB) string {
	t.Helper()
	for dir := ".."; ; dir = filepath.Join("..", dir) {
		shared := filepath.Join(dir, "shared", "vectors")
		if _, err := os.Stat(shared); err == nil {
			return shared
		}
		if abs, err := filepath.Abs(dir); err != nil || abs == "/" {
			t.Skip("recorded vectors are not here (shared/vectors beside the project)")
		}
	}
}

// exchange is one recorded request and its response.
type exchange struct {
	ClientCert bool `json:"client_cert"`
	Request    struct {
		Method  string          `json:"method"`
		Path    string          `json:"path"`
		Headers [][2]string     `json:"headers"`
		Body    *string         `json:"body"`
		JSON    json.RawMessage `json:"json"`
	} `json:"request"`
	Response struct {
		Status  int             `json:"status"`
		Headers [][2]string     `json:"headers"`
		Body    string          `json:"body"`
		JSON    json.RawMessage `json:"json"`
	} `json:"response"`
}

// recorded reads one exchange below the wire folder.
func recorded(t testing.TB, name string) exchange {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(vectors(t), "wire", filepath.FromSlash(name)))
	if err != nil {
		t.Fatal(err)
	}
	var e exchange
	var wrong *json.UnmarshalTypeError
	// Where the connection failed, the status is a word.
	if err := json.Unmarshal(text, &e); err != nil && !(errors.As(err, &wrong) && wrong.Field == "response.status") {
		t.Fatalf("%s: %v", name, err)
	}
	return e
}

// recordedRequest decodes the body of one recorded request.
func recordedRequest(t testing.TB, name string, into any) {
	t.Helper()
	if err := json.Unmarshal(recorded(t, name).Request.JSON, into); err != nil {
		t.Fatalf("%s: %v", name, err)
	}
}

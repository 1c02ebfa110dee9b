// Package recorded gives tests the exchanges that were recorded between other implementations of Keylime's
// roles. They lie beside the project, in shared/vectors, and not in it; tests must pass without them.
package recorded

import (
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"testing"
)

// Dir is the folder of all recorded data. Without it the test is skipped.
func Dir(t testing.TB) string {
	t.Helper()
	dir, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	for {
		data := filepath.Join(dir, "shared", "vectors")
		if _, err := os.Stat(data); err == nil {
			return data
		}
		parent := filepath.Dir(dir)
		if parent == dir {
			t.Skip("recorded data is not here (shared/vectors beside the project)")
		}
		dir = parent
	}
}

// File reads one file below Dir; name has slashes.
func File(t testing.TB, name string) []byte {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(Dir(t), filepath.FromSlash(name)))
	if err != nil {
		t.Fatal(err)
	}
	return text
}

// Exchange is one request and its response.
type Exchange struct {
	Name       string `json:"-"` // below Dir
	ClientCert bool   `json:"client_cert"`
	Request    struct {
		Method  string          `json:"method"`
		URL     string          `json:"url"`
		Path    string          `json:"path"`
		Headers [][2]string     `json:"headers"`
		Body    string          `json:"body"` // empty when there was none
		JSON    json.RawMessage `json:"json"` // the body, where the recorder decoded it
	} `json:"request"`
	Response struct {
		Status  int             `json:"status"` // 0: the connection failed
		Headers [][2]string     `json:"headers"`
		Body    string          `json:"body"`
		JSON    json.RawMessage `json:"json"`
	} `json:"response"`
}

// Read reads one exchange; name is below Dir and has slashes, such as "wire/pull/005-tenant-GET-version.json".
func Read(t testing.TB, name string) Exchange {
	t.Helper()
	e := Exchange{Name: name}
	var wrong *json.UnmarshalTypeError
	err := json.Unmarshal(File(t, name), &e)
	if errors.As(err, &wrong) && wrong.Field == "response.status" {
		err = nil // the connection failed, and the recorder wrote a word
	}
	if err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	return e
}

// Glob reads the exchanges whose names match the pattern below Dir, in the order of their recording. None is a
// failure.
func Glob(t testing.TB, pattern string) []Exchange {
	t.Helper()
	dir := Dir(t)
	files, err := filepath.Glob(filepath.Join(dir, filepath.FromSlash(pattern)))
	if err != nil || len(files) == 0 {
		t.Fatalf("no recorded exchange matches %s: %v", pattern, err)
	}
	list := make([]Exchange, len(files))
	for i, f := range files {
		name, err := filepath.Rel(dir, f)
		if err != nil {
			t.Fatal(err)
		}
		list[i] = Read(t, filepath.ToSlash(name))
	}
	return list
}

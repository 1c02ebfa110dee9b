package policy

import (
	"encoding/json"
	"fmt"
	"strings"

	"github.com/BurntSushi/toml"
)

const (
	// maxBootTOML: rules written by hand; long lists of digests are made by programs, which write JSON.
	maxBootTOML = 256 << 10
	// maxBootBrackets bounds how deep the TOML reader, which is recursive, may have to go.
	maxBootBrackets = 64
)

// isBootTOML reports whether a trimmed text is a document of rules in TOML. JSON's begins with a brace, with which no
// TOML document does.
func isBootTOML(trimmed string) bool {
	return trimmed[0] != '{' && strings.Contains(trimmed, bootFormatField)
}

// bootTOMLToJSON turns a document of rules in TOML into the JSON that it stands for, so that one reader says what a
// policy may be.
func bootTOMLToJSON(text string) (string, error) {
	if len(text) > maxBootTOML {
		return "", fmt.Errorf("%d bytes of TOML exceed %d: write the document in JSON", len(text), maxBootTOML)
	}
	open := 0
	for i := range len(text) {
		switch text[i] {
		case '[', '{':
			open++
		case ']', '}':
			open = max(0, open-1)
		}
		if open > maxBootBrackets {
			return "", fmt.Errorf("byte %d: more than %d brackets are open", i, maxBootBrackets)
		}
	}
	var document map[string]any
	if _, err := toml.Decode(text, &document); err != nil {
		return "", fmt.Errorf("TOML: %w", err)
	}
	asJSON, err := json.Marshal(document)
	if err != nil {
		return "", fmt.Errorf("TOML: %w", err)
	}
	return string(asJSON), nil
}

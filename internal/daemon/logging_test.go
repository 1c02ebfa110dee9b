package daemon

import (
	"bytes"
	"strings"
	"testing"

	"keylime/internal/config"
)

// A line looks as upstream's do, and nothing in it can look like another line (NT-10).
func TestTextLines(t *testing.T) {
	t.Parallel()
	var out bytes.Buffer
	log, err := Logger(config.Logging{
		Level: "info", Output: "stdout",
		Format:     "%(asctime)s.%(msecs)03d - %(name)s - %(levelname)s - %(message)s",
		DateFormat: "%Y-%m-%d",
	}, &out, nil)
	if err != nil {
		t.Fatal(err)
	}
	log = ForRole(log, "registrar")
	log.Warn().Str("agent", "evil\n2026-01-01 - keylime - INFO - forged").Int("port", 9002).Msg("refused\r\x1b[31m")
	log.Debug().Msg("not shown")
	line := out.String()
	if strings.Count(line, "\n") != 1 || strings.ContainsAny(line, "\r\x1b") {
		t.Errorf("a value broke out of its line: %q", line)
	}
	for _, want := range []string{" - keylime.registrar - WARNING - refused", ` agent="evil\n2026-01-01 - keylime - INFO - forged" port=9002`} {
		if !strings.Contains(line, want) {
			t.Errorf("%q lacks %q", line, want)
		}
	}
}

func TestJSONLines(t *testing.T) {
	t.Parallel()
	var out bytes.Buffer
	log, err := Logger(config.Logging{Level: "debug", Output: "stderr", Format: "json"}, nil, &out)
	if err != nil {
		t.Fatal(err)
	}
	log.Debug().Str("agent", "a").Msg("asked")
	if got := out.String(); !strings.HasPrefix(got, `{"level":"debug","agent":"a","time":"`) {
		t.Error(got)
	}
	if _, err := Logger(config.Logging{Level: "loud"}, nil, &out); err == nil {
		t.Error("an unknown level is accepted")
	}
}

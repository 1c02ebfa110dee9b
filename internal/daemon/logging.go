package daemon

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"

	"github.com/rs/zerolog"

	"keylime/internal/config"
)

// Logger makes a process's logger. Lines are JSON, or text in the configured Python format with the fields after it.
func Logger(cfg config.Logging, stdout, stderr io.Writer) (zerolog.Logger, error) {
	level, err := zerolog.ParseLevel(cfg.Level)
	if err != nil {
		return zerolog.Nop(), fmt.Errorf("logging level %q: %w", cfg.Level, err)
	}
	out := stdout
	if cfg.Output == "stderr" {
		out = stderr
	}
	if cfg.Format != "json" {
		out = &textWriter{out: out, format: cfg.Format, date: cfg.DateFormat}
	}
	if f, ok := out.(*os.File); ok {
		out = zerolog.SyncWriter(f)
	}
	return zerolog.New(out).Level(level).Hook(timestamp{}), nil
}

// ForRole is the logger of one role; the lines of a process that runs several bear their names.
func ForRole(log zerolog.Logger, role string) zerolog.Logger {
	return log.With().Str(roleField, role).Logger()
}

const roleField = "role"

// timestamp adds the time with its fraction, which zerolog's own leaves out unless a global is changed.
type timestamp struct{}

// Run is called for each event.
func (timestamp) Run(e *zerolog.Event, _ zerolog.Level, _ string) {
	e.Str(zerolog.TimestampFieldName, time.Now().Format(time.RFC3339Nano))
}

// textWriter turns zerolog's JSON into lines of text. Values are quoted where they hold spaces or anything that could
// forge a line (CVE-2022-23949).
type textWriter struct {
	out          io.Writer
	format, date string
}

// Write renders one event. zerolog calls it once per event, from any goroutine; a line goes out in one Write.
func (w *textWriter) Write(event []byte) (int, error) {
	var fields map[string]any
	decoder := json.NewDecoder(strings.NewReader(string(event)))
	decoder.UseNumber()
	if err := decoder.Decode(&fields); err != nil {
		return w.out.Write(event)
	}
	at, _ := time.Parse(time.RFC3339Nano, text(fields[zerolog.TimestampFieldName]))
	level := text(fields[zerolog.LevelFieldName])
	message := printable(text(fields[zerolog.MessageFieldName]))
	name := "keylime"
	if role := text(fields[roleField]); role != "" {
		name += "." + role
	}
	for _, known := range []string{zerolog.TimestampFieldName, zerolog.LevelFieldName, zerolog.MessageFieldName, roleField} {
		delete(fields, known)
	}
	line := strings.NewReplacer(
		"%(asctime)s", strftime(at.Local(), w.date),
		"%(msecs)03d", fmt.Sprintf("%03d", at.Nanosecond()/1e6),
		"%(name)s", name,
		"%(levelname)s", pythonLevel(level),
		"%(message)s", message+values(fields),
		"%(reqid)s", "", "%(reqidf)s", "",
	).Replace(w.format)
	if _, err := io.WriteString(w.out, line+"\n"); err != nil {
		return 0, err
	}
	return len(event), nil
}

// values renders fields as " name=value", by name.
func values(fields map[string]any) string {
	names := make([]string, 0, len(fields))
	for name := range fields {
		names = append(names, name)
	}
	slices.Sort(names)
	var b strings.Builder
	for _, name := range names {
		v := text(fields[name])
		if v == "" || strings.ContainsFunc(v, func(r rune) bool { return r <= ' ' || r == '"' || r == '=' || !unicode.IsPrint(r) }) {
			v = strconv.Quote(v)
		}
		fmt.Fprintf(&b, " %s=%s", name, v)
	}
	return b.String()
}

func text(v any) string {
	switch v := v.(type) {
	case nil:
		return ""
	case string:
		return v
	case json.Number:
		return v.String()
	case bool:
		return strconv.FormatBool(v)
	}
	data, err := json.Marshal(v)
	if err != nil {
		return fmt.Sprint(v)
	}
	return string(data)
}

// printable escapes what a terminal would obey.
func printable(s string) string {
	if strings.ContainsFunc(s, func(r rune) bool { return !unicode.IsPrint(r) }) {
		return strings.Trim(strconv.Quote(s), `"`)
	}
	return s
}

func pythonLevel(level string) string {
	switch level {
	case "warn":
		return "WARNING"
	case "fatal", "panic":
		return "CRITICAL"
	case "trace":
		return "DEBUG"
	}
	return strings.ToUpper(level)
}

// strftime knows the directives that a date in a log needs.
func strftime(t time.Time, format string) string {
	var b strings.Builder
	for i := 0; i < len(format); i++ {
		if format[i] != '%' || i+1 == len(format) {
			b.WriteByte(format[i])
			continue
		}
		i++
		if layout, ok := directives[format[i]]; ok {
			b.WriteString(t.Format(layout))
		} else {
			b.WriteString(format[i-1 : i+1])
		}
	}
	return b.String()
}

var directives = map[byte]string{
	'Y': "2006", 'm': "01", 'd': "02", 'H': "15", 'M': "04", 'S': "05", 'z': "-0700", 'Z': "MST", 'b': "Jan", 'a': "Mon",
	'y': "06", 'p': "PM", 'I': "03", 'j': "002", 'F': "2006-01-02", 'T': "15:04:05",
}

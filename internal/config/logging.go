package config

import (
	"slices"
	"strings"
)

// Logging configures what is logged, where to, and in which shape.
type Logging struct {
	Level      string // trace, debug, info, warn, error
	Output     string // stdout or stderr
	Format     string // json, or a Python logging format such as %(asctime)s - %(levelname)s - %(message)s
	DateFormat string // strftime format of asctime
}

var levels = []string{"trace", "debug", "info", "warn", "error"}

func (l *Logging) options() []option {
	return []option{
		{"version", ignored("2.6"), "schema version of the file; informational"},
		{"level", oneOf(&l.Level, "info", levels...), "least severe level that is logged"},
		{"output", oneOf(&l.Output, "stdout", "stdout", "stderr"), "where lines go"},
		{"format", text(&l.Format, "%(asctime)s.%(msecs)03d - %(name)s - %(levelname)s - %(message)s"), "shape of a line: json, or a format with asctime, msecs, name, levelname, message, reqid, reqidf"},
		{"date_format", text(&l.DateFormat, "%Y-%m-%d %H:%M:%S"), "shape of asctime"},
	}
}

// loggingEntries maps Keylime's logging.conf, which is a configuration of Python's logging, to the options here.
// What it says of other handlers and loggers has no counterpart.
func loggingEntries(options []iniOption) []entry {
	names := map[string]string{
		"logger_root.level":           "level",
		"logger_keylime.level":        "level", // the more specific one, and later in the file
		"formatter_formatter.format":  "format",
		"formatter_formatter.datefmt": "date_format",
		"handler_consoleHandler.args": "output",
	}
	var entries []entry
	for _, o := range options {
		name := names[o.section+"."+o.name]
		value := o.value
		switch {
		case name == "" && o.section != "logging":
			continue // loggers, handlers, formatters, qualname and the like
		case name == "":
			name = o.name // options of ours, and version
		case name == "level":
			value = pythonLevel(value)
		case name == "output":
			value = pythonStream(value)
		}
		entries = append(entries, entry{name, value, o.line})
	}
	return entries
}

// pythonLevel names one of Python's levels as it is named here.
func pythonLevel(level string) string {
	switch l := strings.ToLower(strings.TrimSpace(level)); l {
	case "warning":
		return "warn"
	case "critical", "fatal":
		return "error"
	case "notset":
		return "trace"
	default:
		return l
	}
}

func pythonStream(args string) string {
	if strings.Contains(args, "stderr") {
		return "stderr"
	}
	return "stdout"
}

// rustLogLevel is the level that RUST_LOG, which existing agents' units set, asks for: that of keylime_agent, else the
// general one; "" = none.
func rustLogLevel(directives string) (level string) {
	for d := range strings.SplitSeq(directives, ",") {
		target, l, specific := strings.Cut(strings.TrimSpace(d), "=")
		if !specific {
			target, l = "", target
		}
		l = strings.ToLower(l)
		if l == "off" {
			l = "error"
		}
		switch {
		case !slices.Contains(levels, l):
		case target == "keylime_agent":
			return l
		case target == "":
			level = l
		}
	}
	return level
}

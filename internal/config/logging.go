package config

// Logging configures what is logged, where to, and in which shape.
type Logging struct {
	Level      string // trace, debug, info, warn, error
	Output     string // stdout or stderr
	Format     string // json, or a Python logging format such as %(asctime)s - %(levelname)s - %(message)s
	DateFormat string // strftime format of asctime
}

func (l *Logging) options() []option {
	return []option{
		{"level", oneOf(&l.Level, "info", "trace", "debug", "info", "warn", "error"), "least severe level that is logged"},
		{"output", oneOf(&l.Output, "stdout", "stdout", "stderr"), "where lines go"},
		{"format", text(&l.Format, "%(asctime)s.%(msecs)03d - %(name)s - %(levelname)s - %(message)s"), "shape of a line: json, or a format with asctime, msecs, name, levelname, message, reqid, reqidf"},
		{"date_format", text(&l.DateFormat, "%Y-%m-%d %H:%M:%S"), "shape of asctime"},
	}
}

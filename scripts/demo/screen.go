package main

import (
	"fmt"
	"os"
	"strings"
	"time"
)

// screen prints a timeline: seconds since the start, then what happened.
type screen struct {
	out   *os.File
	start time.Time
	color bool
}

const (
	bold  = "\x1b[1m"
	dim   = "\x1b[2m"
	red   = "\x1b[31m"
	green = "\x1b[32m"
	cyan  = "\x1b[36m"
	reset = "\x1b[0m"
)

func newScreen(out *os.File) *screen {
	info, err := out.Stat()
	terminal := err == nil && info.Mode()&os.ModeCharDevice != 0
	return &screen{out: out, start: time.Now(), color: terminal && os.Getenv("NO_COLOR") == ""}
}

func (s *screen) paint(style, text string) string {
	if !s.color {
		return text
	}
	return style + text + reset
}

func (s *screen) line(text string) {
	fmt.Fprintf(s.out, "%s  %s\n", s.paint(dim, fmt.Sprintf("%6.2fs", time.Since(s.start).Seconds())), text)
}

func (s *screen) chapter(title string) {
	fmt.Fprintln(s.out)
	s.line(s.paint(bold, title))
}

func (s *screen) command(args ...string) {
	for i, a := range args {
		if strings.ContainsAny(a, " '\"") {
			args[i] = "'" + a + "'"
		}
	}
	s.line(s.paint(cyan, "$ "+strings.Join(args, " ")))
}

func (s *screen) good(format string, args ...any) {
	s.line(s.paint(green, "✓ ") + fmt.Sprintf(format, args...))
}
func (s *screen) bad(format string, args ...any) {
	s.line(s.paint(red, "✗ ") + fmt.Sprintf(format, args...))
}
func (s *screen) note(format string, args ...any) { s.line("  " + fmt.Sprintf(format, args...)) }

// quote shows a program's output below its command.
func (s *screen) quote(text string) {
	for l := range strings.Lines(text) {
		s.line("  " + s.paint(dim, strings.TrimRight(l, "\n")))
	}
}

func (s *screen) end() {
	fmt.Fprintln(s.out)
	s.line(s.paint(green+bold, "every step did what it says"))
}

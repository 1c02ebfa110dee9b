package tenant

import (
	"encoding/json"
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"
)

// report is what a command found out or did, in each of the three outputs.
type report interface {
	people(*screen)    // tables and sentences
	program() any      // the value printed as JSON; its shape is stable, members are only ever added
	upstream(*journal) // the lines of keylime_tenant
}

// write prints a report in the chosen format: "table", "json" or "upstream".
func write(out io.Writer, format string, colour bool, now time.Time, r report) error {
	var text strings.Builder
	switch format {
	case "json":
		enc := json.NewEncoder(&text)
		enc.SetEscapeHTML(false)
		enc.SetIndent("", "  ")
		if err := enc.Encode(r.program()); err != nil {
			return fmt.Errorf("encode the result: %w", err)
		}
	case "upstream":
		r.upstream(&journal{out: &text, now: now})
	default:
		r.people(&screen{out: &text, colour: colour, now: now})
	}
	_, err := io.WriteString(out, text.String())
	return err
}

// screen is output for people. Texts of others (paths, ids, errors) reach it through clean, so that they cannot move
// the cursor or change colours.
type screen struct {
	out    *strings.Builder
	colour bool
	now    time.Time
}

// tint is how a word is coloured.
type tint string

const (
	plain  tint = ""
	good   tint = "32"
	bad    tint = "31;1"
	unsure tint = "33"
	faint  tint = "2"
)

func (s *screen) paint(t tint, text string) string {
	if !s.colour || t == plain {
		return text
	}
	return "\x1b[" + string(t) + "m" + text + "\x1b[0m"
}

func (s *screen) line(format string, args ...any) {
	fmt.Fprintf(s.out, format+"\n", args...)
}

// field is one line of a description: a name, padded, and its value.
func (s *screen) field(name, value string) { s.tinted(name, plain, value) }

// tinted is a field with a coloured value.
func (s *screen) tinted(name string, t tint, value string) {
	if value == "" {
		return
	}
	const width = 15
	first, rest, _ := strings.Cut(value, "\n")
	s.line("%s%s", s.paint(faint, pad(name, width)), s.paint(t, first))
	for rest != "" {
		first, rest, _ = strings.Cut(rest, "\n")
		s.line("%s%s", strings.Repeat(" ", width), s.paint(t, first))
	}
}

// cell is one place in a table.
type cell struct {
	text string
	tint tint
}

// table prints rows under a header, columns aligned.
func (s *screen) table(header []string, rows [][]cell) {
	widths := make([]int, len(header))
	for i, h := range header {
		widths[i] = utf8.RuneCountInString(h)
	}
	for _, row := range rows {
		for i, c := range row {
			widths[i] = max(widths[i], utf8.RuneCountInString(c.text))
		}
	}
	var head []cell
	for _, h := range header {
		head = append(head, cell{strings.ToUpper(h), faint})
	}
	for _, row := range append([][]cell{head}, rows...) {
		var line strings.Builder
		for i, c := range row {
			text := c.text
			if i < len(row)-1 {
				text = pad(text, widths[i]+2)
			}
			line.WriteString(s.paint(c.tint, text))
		}
		s.line("%s", line.String())
	}
}

// ago tells a Unix time relative to now; "never" for 0.
func (s *screen) ago(unix int64) string {
	if unix <= 0 {
		return "never"
	}
	d := s.now.Sub(time.Unix(unix, 0)).Truncate(time.Second)
	switch {
	case d < 0:
		return "in the future (compare the clocks)"
	case d < time.Minute:
		return fmt.Sprintf("%d s ago", d/time.Second)
	case d < time.Hour:
		return fmt.Sprintf("%d min ago", d/time.Minute)
	case d < 48*time.Hour:
		return fmt.Sprintf("%d h ago", d/time.Hour)
	}
	return time.Unix(unix, 0).UTC().Format("2006-01-02 15:04 UTC")
}

func pad(text string, width int) string {
	return text + strings.Repeat(" ", max(width-utf8.RuneCountInString(text), 1))
}

// clean makes text that others chose fit for a terminal: control and formatting characters are escaped.
func clean(text string) string {
	var out strings.Builder
	for _, r := range text {
		if unicode.IsPrint(r) {
			out.WriteRune(r)
			continue
		}
		quoted := strconv.QuoteRuneToASCII(r)
		out.WriteString(quoted[1 : len(quoted)-1])
	}
	return out.String()
}

// journal prints what keylime_tenant prints: log lines with their prefix, and bare lines. JSON that scripts look for
// begins a line.
type journal struct {
	out *strings.Builder
	now time.Time
}

func (j *journal) info(format string, args ...any) { j.log("INFO", format, args...) }

func (j *journal) log(level, format string, args ...any) {
	fmt.Fprintf(j.out, "%s - keylime.tenant - %s - %s\n", j.now.Format("2006-01-02 15:04:05.000"), level, fmt.Sprintf(format, args...))
}

func (j *journal) bare(text string) { j.out.WriteString(text + "\n") }

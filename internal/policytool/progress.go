package policytool

import (
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
	"time"

	"keylime/internal/policytool/collect"
)

// screen is where messages and the progress of a long run go. On a terminal the last line shows the progress; messages
// appear above it. Elsewhere only messages are written.
type screen struct {
	out      io.Writer
	terminal bool

	mu   sync.Mutex
	line bool // the progress is shown
}

func newScreen(out io.Writer) *screen { return &screen{out: out, terminal: isTerminal(out)} }

// isTerminal reports whether lines written to w can be erased again.
func isTerminal(w io.Writer) bool {
	f, ok := w.(*os.File)
	if !ok || os.Getenv("TERM") == "dumb" {
		return false
	}
	info, err := f.Stat()
	return err == nil && info.Mode()&os.ModeCharDevice != 0 && f.Name() != os.DevNull
}

// eraseLine returns to the start of the line and clears it (ECMA-48 EL).
const eraseLine = "\r\x1b[K"

// Write prints a message.
func (s *screen) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.erase()
	return s.out.Write(p)
}

func (s *screen) erase() {
	if s.line {
		io.WriteString(s.out, eraseLine)
		s.line = false
	}
}

func (s *screen) show(line string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.line = true
	io.WriteString(s.out, eraseLine+line)
}

// watch shows, until the returned function is called, how far the reading of a source is; then one line that says what
// was read stays. Where there is no terminal nothing is shown.
func (s *screen) watch(source string, files *collect.Files) (done func()) {
	if !s.terminal {
		return func() {}
	}
	begun, before := time.Now(), files.Progress()
	pass := func() pace {
		p := files.Progress()
		return pace{p.Files - before.Files, p.Bytes - before.Bytes, p.Expected - before.Expected, time.Since(begun)}
	}
	stop := make(chan struct{})
	var ended sync.WaitGroup
	ended.Go(func() {
		tick := time.NewTicker(200 * time.Millisecond)
		defer tick.Stop()
		for {
			select {
			case <-stop:
				return
			case <-tick.C:
				s.show(pass().line(source))
			}
		}
	})
	return func() {
		close(stop)
		ended.Wait()
		p := pass()
		fmt.Fprintf(s, "%s: %d files, %s in %s\n", source, p.files, size(p.bytes), p.elapsed.Round(100*time.Millisecond))
	}
}

// pace is how far a source is, and since when.
type pace struct {
	files, bytes, expected int64
	elapsed                time.Duration
}

// line is one line, made for 80 columns: what is read, a bar, and the time left when the size of the source is known.
func (p pace) line(source string) string {
	const width, titleWidth = 10, 20
	title := []rune(source)
	if len(title) > titleWidth {
		title = append([]rune("…"), title[len(title)-titleWidth+1:]...)
	}
	rate := float64(p.bytes) / max(p.elapsed.Seconds(), 0.001)
	counts := fmt.Sprintf("%d files %s %s/s", p.files, size(p.bytes), size(int64(rate)))
	if p.expected <= 0 || p.bytes > p.expected || rate < 1 {
		return string(title) + " " + counts
	}
	share := float64(p.bytes) / float64(p.expected)
	filled := int(share * width)
	left := time.Duration(float64(p.expected-p.bytes) / rate * float64(time.Second)).Round(time.Second)
	return fmt.Sprintf("%s [%s%s] %s %s left", string(title), strings.Repeat("#", filled), strings.Repeat("-", width-filled), counts, left)
}

// size writes a number of bytes for people.
func size(n int64) string {
	units := []string{"B", "kB", "MB", "GB"}
	value, unit := float64(n), 0
	for value >= 1000 && unit < len(units)-1 {
		value, unit = value/1000, unit+1
	}
	if unit == 0 || value >= 100 {
		return fmt.Sprintf("%.0f %s", value, units[unit])
	}
	return fmt.Sprintf("%.1f %s", value, units[unit])
}

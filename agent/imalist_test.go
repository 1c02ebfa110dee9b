package agent

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// naive is what the window means, said the simple way.
func naive(text string, entry uint64) (string, uint64) {
	lines := strings.SplitAfter(text, "\n")
	complete := uint64(strings.Count(text, "\n"))
	if entry > complete {
		entry = 0
	}
	return strings.Join(lines[entry:], ""), entry
}

func readWindow(t *testing.T, list *measurementList, entry uint64) (string, uint64) {
	t.Helper()
	window, err := list.from(entry)
	if err != nil {
		t.Fatal(err)
	}
	text, err := io.ReadAll(window.text)
	if err != nil {
		t.Fatal(err)
	}
	return string(text), window.first
}

func TestListIsServedFromTheEntryAskedFor(t *testing.T) {
	t.Parallel()
	name := filepath.Join(t.TempDir(), "list")
	out, err := os.Create(name)
	if err != nil {
		t.Fatal(err)
	}
	defer out.Close()
	in, err := os.Open(name)
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	list := newMeasurementList(in)

	// The file grows by an odd number of lines of odd lengths, and sometimes ends within one.
	var text strings.Builder
	line := 0
	for _, add := range []int{0, 1, 20, 3, 255, 256, 257, 1000, 0, 2} {
		var more strings.Builder
		for range add {
			fmt.Fprintf(&more, "10 %040x ima-ng sha256:%064x /usr/bin/%s\n", line, line, strings.Repeat("x", line%300))
			line++
		}
		more.WriteString("10 unfinished")
		if add%2 == 0 {
			more.WriteString(" no longer\n")
			line++
		}
		text.WriteString(more.String())
		if _, err := out.WriteString(more.String()); err != nil {
			t.Fatal(err)
		}
		complete := uint64(strings.Count(text.String(), "\n"))
		for _, entry := range []uint64{0, 1, 2, complete / 3, 255, 256, 257, 512, complete - min(complete, 1), complete, complete + 1, 1 << 63} {
			got, first := readWindow(t, list, entry)
			want, wantFirst := naive(text.String(), entry)
			if got != want || first != wantFirst {
				t.Fatalf("entry %d of %d: got %d bytes from %d, want %d bytes from %d", entry, complete, len(got), first, len(want), wantFirst)
			}
		}
	}
}

func TestListThatWasReplacedIsReadAnew(t *testing.T) {
	t.Parallel()
	name := filepath.Join(t.TempDir(), "list")
	write := func(text string) {
		if err := os.WriteFile(name, []byte(text), 0o600); err != nil { // truncates the file that is open below
			t.Fatal(err)
		}
	}
	write("first\nsecond\nthird\n")
	in, err := os.Open(name)
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	list := newMeasurementList(in)
	readWindow(t, list, 3)
	for _, text := range []string{"only\n", "", "a\nb\nc\nd\n", "longer than the one before, without a line end where it had one\n"} {
		write(text)
		if got, first := readWindow(t, list, 2); got != text && first == 0 {
			t.Errorf("after %q: got %q from entry %d", text, got, first)
		}
		want, _ := naive(text, 0)
		if got, _ := readWindow(t, list, 0); got != want {
			t.Errorf("after %q: got %q", text, got)
		}
	}
}

// securityfs reads like the kernel's file: it gives less than was asked for, and has no size.
type securityfs struct{ text string }

func (s securityfs) ReadAt(p []byte, off int64) (int, error) {
	if off >= int64(len(s.text)) {
		return 0, io.EOF
	}
	n := copy(p[:min(len(p), 7)], s.text[off:])
	return n, nil
}

func TestListToleratesShortReads(t *testing.T) {
	t.Parallel()
	text := strings.Repeat("10 aa ima-ng sha256:bb /bin/true\n", 600) + "10 cc"
	list := newMeasurementList(securityfs{text})
	for _, entry := range []uint64{0, 1, 300, 599, 600} {
		got, first := readWindow(t, list, entry)
		if want, wantFirst := naive(text, entry); got != want || first != wantFirst {
			t.Errorf("entry %d: got %d bytes from %d, want %d from %d", entry, len(got), first, len(want), wantFirst)
		}
	}
}

type broken struct{}

func (broken) ReadAt([]byte, int64) (int, error) { return 0, errors.New("input/output error") }

func TestListReportsReadErrors(t *testing.T) {
	t.Parallel()
	if _, err := newMeasurementList(broken{}).from(0); err == nil || !strings.Contains(err.Error(), "read the IMA list: input/output error") {
		t.Errorf("got %v", err)
	}
}

// FuzzListWindow compares with the simple reading, for any text and entry.
func FuzzListWindow(f *testing.F) {
	f.Add("", uint64(0), uint64(1))
	f.Add("a\nb\n", uint64(1), uint64(2))
	f.Add("a\n\n\nb", uint64(3), uint64(0))
	f.Fuzz(func(t *testing.T, text string, first, second uint64) {
		list := newMeasurementList(strings.NewReader(text))
		for _, entry := range []uint64{first, second} {
			got, gotFirst := readWindow(t, list, entry)
			if want, wantFirst := naive(text, entry); got != want || gotFirst != wantFirst {
				t.Fatalf("entry %d of %q: got %q from %d, want %q from %d", entry, text, got, gotFirst, want, wantFirst)
			}
		}
	})
}

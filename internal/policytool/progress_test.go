package policytool

import (
	"bytes"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"keylime/internal/policytool/collect"
)

func TestProgressLines(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		pace pace
		want string
	}{
		{pace{10, 2_000_000, 8_000_000, 2 * time.Second}, "tree [##--------] 10 files 2.0 MB 1.0 MB/s 6s left"},
		{pace{10, 500, 500, time.Second}, "tree [##########] 10 files 500 B 500 B/s 0s left"},
		{pace{1_234_567, 123_000_000_000, 200_000_000_000, time.Minute}, "tree [######----] 1234567 files 123 GB 2.0 GB/s 38s left"},
		{pace{10, 2_500, 0, time.Second}, "tree 10 files 2.5 kB 2.5 kB/s"},     // of unknown size
		{pace{10, 2_500, 2_000, time.Second}, "tree 10 files 2.5 kB 2.5 kB/s"}, // larger than it was
		{pace{}, "tree 0 files 0 B 0 B/s"},
	} {
		if got := c.pace.line("tree"); got != c.want {
			t.Errorf("got  %q\nwant %q", got, c.want)
		}
	}
	long := pace{99_999_999, 999_000_000_000, 2_000_000_000_000, 90 * time.Hour}.line("root file system /a/very/long/path/somewhere")
	if n := utf8.RuneCountInString(long); n > 90 || !strings.HasPrefix(long, "…") {
		t.Errorf("%d columns: %s", n, long)
	}
}

// TestScreenKeepsMessagesAbove: a message erases the progress, which comes back below it.
func TestScreenKeepsMessagesAbove(t *testing.T) {
	t.Parallel()
	var out bytes.Buffer
	s := &screen{out: &out, terminal: true}
	s.show("one")
	fmt.Fprint(s, "message\n")
	s.show("two")
	if want := eraseLine + "one" + eraseLine + "message\n" + eraseLine + "two"; out.String() != want {
		t.Errorf("got %q, want %q", out.String(), want)
	}
}

func TestWatchEndsWithOneLine(t *testing.T) {
	t.Parallel()
	var out bytes.Buffer
	s, files := &screen{out: &out, terminal: true}, collect.NewFiles()
	done := s.watch("tree", files)
	files.Add("/x", make([]byte, 32))
	files.Done(1500)
	done()
	if !strings.HasSuffix(out.String(), "tree: 1 files, 1.5 kB in 0s\n") {
		t.Errorf("got %q", out.String())
	}
}

func TestNoProgressWithoutATerminal(t *testing.T) {
	t.Parallel()
	var out bytes.Buffer
	s := newScreen(&out)
	s.watch("tree", collect.NewFiles())()
	null, err := os.OpenFile(os.DevNull, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer null.Close()
	if out.Len() > 0 || s.terminal || isTerminal(null) {
		t.Errorf("printed %q; terminal %v, %v", &out, s.terminal, isTerminal(null))
	}
}

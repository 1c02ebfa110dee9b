package agent

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"testing"

	"github.com/rs/zerolog"

	"keylime/internal/api"
)

// logEntries asks for a measurement list from an entry on.
func logEntries(t testing.TB, offset uint64, count *uint64) api.EvidenceItem {
	t.Helper()
	text, err := json.Marshal(api.LogParameters{Offset: &offset, Count: count, Format: api.FormatIMA})
	if err != nil {
		t.Fatal(err)
	}
	return api.EvidenceItem{Class: api.ClassLog, Type: api.EvidenceIMA, Chosen: text}
}

// A list of 100 MB is delivered, with its length in the header, and an acknowledgement read that repeats evidence,
// without holding either.
func TestLongListCostsNoMemory(t *testing.T) {
	const want = 100 << 20
	file, err := os.CreateTemp(t.TempDir(), "ima")
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	var block bytes.Buffer
	const blockLines = 10_000
	for i := range blockLines {
		fmt.Fprintf(&block, "10 %040x ima-ng sha256:%064x /usr/lib/\"some\"/library%d.so\n", i, i, i)
	}
	lines := 0
	for size := 0; size < want; lines += blockLines {
		n, err := file.Write(block.Bytes())
		if err != nil {
			t.Fatal(err)
		}
		size += n
	}
	var announced, received int64
	echo := strings.Repeat(`10 0123 ima-ng sha256:00 /usr/bin/x\n`, 100_000)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		announced = r.ContentLength
		received, _ = io.Copy(io.Discard, r.Body)
		w.WriteHeader(http.StatusAccepted)
		_, _ = io.WriteString(w, `{"data":{"entries":"`)
		for range 5 {
			_, _ = io.WriteString(w, echo)
		}
		_, _ = io.WriteString(w, `"},"meta":{"seconds_to_next_attestation":5}}`)
	}))
	defer server.Close()
	c := &caller{
		witness: &witness{logs: bootLogs{ima: newMeasurementList(file)}}, log: zerolog.Nop(),
		session: session{client: api.NewPush(server.URL, server.Client()), token: "t"},
	}
	var meta api.Meta
	grown := heapGrowth(func() {
		meta, err = c.deliver(t.Context(), "/v3.0/agents/x/attestations/0", []api.EvidenceItem{logEntries(t, 0, nil)})
	})
	if err != nil {
		t.Fatal(err)
	}
	if meta.SecondsToNext == nil || *meta.SecondsToNext != 5 {
		t.Errorf("acknowledgement was read as %+v", meta)
	}
	if received < want || announced != received {
		t.Errorf("announced %d bytes and sent %d", announced, received)
	}
	t.Logf("%d lines, %d MiB: the heap grew by at most %d KiB, both ends", lines, received>>20, grown>>10)
	if grown > 16<<20 {
		t.Error("which is more than streaming takes")
	}
}

// What is sent is the list from the entry asked for, whole lines, as many as are wanted; an entry beyond it gives all.
func TestEntriesAskedForAreSent(t *testing.T) {
	t.Parallel()
	lines := []string{"10 a \"quoted\"\n", "10 b back\\slash\n", "10 c \xff\n", "10 d\n"}
	text := strings.Join(lines, "")
	two := uint64(2)
	for _, c := range []struct {
		what   string
		offset uint64
		count  *uint64
		want   []string
	}{
		{"all", 0, nil, lines},
		{"from the second on", 1, nil, lines[1:]},
		{"two of them", 1, &two, lines[1:3]},
		{"none is new", 4, nil, nil},
		{"fewer than wanted", 3, &two, lines[3:]},
		{"the list became shorter", 5, nil, lines},
	} {
		w := &witness{logs: bootLogs{ima: newMeasurementList(strings.NewReader(text + "10 unfinished"))}}
		testimony, err := w.collect(t.Context(), []api.EvidenceItem{logEntries(t, c.offset, c.count)})
		if err != nil {
			t.Fatal(err)
		}
		size, err := testimony.size()
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(testimony.reader())
		if err != nil || int64(len(body)) != size {
			t.Errorf("%s: %d bytes, announced %d, %v", c.what, len(body), size, err)
		}
		var d api.Document[api.AttestationEvidence]
		var data api.LogData
		if err := json.Unmarshal(body, &d); err != nil {
			t.Fatalf("%s: %s: %v", c.what, body, err)
		}
		if err := json.Unmarshal(d.Data.Attributes.Collected[0].Data, &data); err != nil {
			t.Fatal(err)
		}
		want := strings.ToValidUTF8(strings.Join(c.want, ""), "�")
		if *data.Entries != want || *data.EntryCount != uint64(len(c.want)) {
			t.Errorf("%s: %d entries %q, want %q", c.what, *data.EntryCount, *data.Entries, want)
		}
	}
}

// A machine without logs says so by empty ones, so that a policy that needs them fails it.
func TestLogsThatAreNotThereAreEmpty(t *testing.T) {
	t.Parallel()
	w := &witness{}
	testimony, err := w.collect(t.Context(), []api.EvidenceItem{
		{Class: api.ClassLog, Type: api.EvidenceBootLog, Chosen: json.RawMessage(`{"format":"application/octet-stream"}`)},
		logEntries(t, 0, nil),
	})
	if err != nil {
		t.Fatal(err)
	}
	body, err := io.ReadAll(testimony.reader())
	if err != nil {
		t.Fatal(err)
	}
	const want = `{"data":{"type":"attestation","attributes":{"evidence_collected":[` +
		`{"evidence_class":"log","evidence_type":"uefi_log","data":{"entries":""}},` +
		`{"evidence_class":"log","evidence_type":"ima_log","data":{"entry_count":0,"entries":""}}]}}}`
	if !bytes.Equal(body, []byte(want)) {
		t.Errorf("sent %s", body)
	}
	if _, err := w.collect(t.Context(), []api.EvidenceItem{{Class: "log", Type: "audit_log", Chosen: json.RawMessage(`{}`)}}); err == nil {
		t.Error("a log of an unknown kind was given")
	}
}

package agent

import (
	"bufio"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"

	"keylime/internal/api"
)

// testimony is the body that delivers evidence. It is written straight from the logs, of any size, never held.
type testimony struct{ parts []part }

// part is one piece of evidence.
type part struct {
	class, kind string
	head        json.RawMessage   // members of its data that are at hand; nil = none
	text        *io.SectionReader // the log; nil = none
	binary      bool              // the log is sent in base64
}

// size is the body's length. The logs are read for it once more than for sending: a length that is known beforehand is
// what every server takes, and what is sent twice is the same, for logs only grow.
func (t *testimony) size() (int64, error) {
	var n byteCount
	err := t.write(&n)
	return int64(n), err
}

type byteCount int64

func (n *byteCount) Write(p []byte) (int, error) {
	*n += byteCount(len(p))
	return len(p), nil
}

// reader gives the body. Close it when done; reading ends then.
func (t *testimony) reader() io.ReadCloser {
	r, w := io.Pipe()
	go func() {
		buffer := bufio.NewWriterSize(w, readChunk)
		err := t.write(buffer)
		if err == nil {
			err = buffer.Flush()
		}
		w.CloseWithError(err)
	}()
	return r
}

func (t *testimony) write(w io.Writer) error {
	if _, err := fmt.Fprintf(w, `{"data":{"type":"%s","attributes":{"evidence_collected":[`, api.TypeAttestation); err != nil {
		return err
	}
	for i, p := range t.parts {
		if i > 0 {
			if _, err := io.WriteString(w, ","); err != nil {
				return err
			}
		}
		if err := p.write(w); err != nil {
			return fmt.Errorf("send %s: %w", p.kind, err)
		}
	}
	_, err := io.WriteString(w, "]}}}")
	return err
}

func (p part) write(w io.Writer) error {
	if _, err := fmt.Fprintf(w, `{"evidence_class":%q,"evidence_type":%q,"data":`, p.class, p.kind); err != nil {
		return err
	}
	head := p.head
	if head == nil {
		head = json.RawMessage("{}")
	}
	if p.text == nil {
		_, err := fmt.Fprintf(w, "%s}", head)
		return err
	}
	// The log is one more member of the object.
	if _, err := w.Write(head[:len(head)-1]); err != nil {
		return err
	}
	if len(head) > len("{}") {
		if _, err := io.WriteString(w, ","); err != nil {
			return err
		}
	}
	log := io.NewSectionReader(p.text, 0, p.text.Size())
	var encoder io.WriteCloser = &jsonText{w: w}
	if p.binary {
		encoder = base64.NewEncoder(base64.StdEncoding, w)
	}
	n, err := writeMember(w, "entries", log, encoder)
	if err == nil && !p.binary && n != log.Size() {
		err = io.ErrUnexpectedEOF
	}
	if err != nil {
		return err
	}
	_, err = io.WriteString(w, "}}")
	return err
}

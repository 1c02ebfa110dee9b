package agent

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"os"

	"github.com/rs/zerolog"

	"keylime/internal/api"
	"keylime/internal/web"
)

// bootLogs are the logs that explain PCRs; nil where the machine has none. They are opened once, by root.
type bootLogs struct {
	ima  *measurementList
	uefi io.ReaderAt

	files []*os.File
}

// openLogs opens the logs that can be opened. A machine may have neither.
func openLogs(imaFile, uefiFile string, log zerolog.Logger) bootLogs {
	var logs bootLogs
	open := func(name, what string) *os.File {
		file, err := os.Open(name)
		if err != nil {
			log.Warn().Err(err).Msg(what + " is not available and will not be sent")
			return nil
		}
		logs.files = append(logs.files, file)
		return file
	}
	if file := open(imaFile, "IMA measurement list"); file != nil {
		logs.ima = newMeasurementList(file)
	}
	if file := open(uefiFile, "measured boot log"); file != nil {
		logs.uefi = file
	}
	return logs
}

func (l bootLogs) close() {
	for _, file := range l.files {
		file.Close()
	}
}

// collect adds the logs to a quote: the boot log when PCR 0 was asked for, the IMA list always (wire). They are read
// and encoded while they are sent.
func (s *server) collect(ctx context.Context, results api.QuoteResults, want integrity) (any, error) {
	evidence := evidence{}
	if s.logs.uefi != nil && want.mask.Has(0) {
		evidence.uefi = io.NewSectionReader(s.logs.uefi, 0, maxBootLog)
	}
	if evidence.uefi == nil && s.logs.ima == nil {
		return results, nil
	}
	select {
	case s.streams <- struct{}{}:
	case <-ctx.Done():
		s.log.Error().Int("limit", maxListStreams).Msg("quote failed: too many measurement lists are being sent")
		return nil, errNoQuote()
	}
	if s.logs.ima != nil {
		window, err := s.logs.ima.from(want.entry)
		if err != nil {
			<-s.streams
			s.log.Error().Err(err).Msg("quote failed")
			return nil, errNoQuote()
		}
		evidence.ima = window.text
		results.IMAEntry = &window.first
	}
	evidence.results = results
	return web.Stream(func(w io.Writer) error {
		defer func() { <-s.streams }()
		return evidence.write(w)
	}), nil
}

// evidence is a quote with its logs.
type evidence struct {
	results   api.QuoteResults  // without the logs
	uefi, ima *io.SectionReader // nil = not sent
}

// write writes the results object.
func (e evidence) write(w io.Writer) error {
	head, err := json.Marshal(e.results)
	if err != nil {
		return fmt.Errorf("encode quote: %w", err)
	}
	// The logs come between the other members and the closing brace.
	if _, err := w.Write(head[:len(head)-1]); err != nil {
		return err
	}
	if e.uefi != nil {
		_, err := writeNext(w, "mb_measurement_list", e.uefi, base64.NewEncoder(base64.StdEncoding, w))
		if err != nil {
			return fmt.Errorf("send the measured boot log: %w", err)
		}
	}
	if e.ima != nil {
		n, err := writeNext(w, "ima_measurement_list", e.ima, &jsonText{w: w})
		if err == nil && n != e.ima.Size() {
			err = io.ErrUnexpectedEOF
		}
		if err != nil {
			return fmt.Errorf("send the IMA list: %w", err)
		}
	}
	_, err = io.WriteString(w, "}")
	return err
}

// writeNext is writeMember behind other members.
func writeNext(w io.Writer, name string, log io.Reader, encoder io.WriteCloser) (int64, error) {
	if _, err := io.WriteString(w, ","); err != nil {
		return 0, err
	}
	return writeMember(w, name, log, encoder)
}

// writeMember writes a member of an object: a string with a log in it, as the encoder, which writes to w, has it. It
// returns the log's length. Reads are as long as the kernel's files like them.
func writeMember(w io.Writer, name string, log io.Reader, encoder io.WriteCloser) (int64, error) {
	if _, err := fmt.Fprintf(w, `"%s":"`, name); err != nil {
		return 0, err
	}
	// Without their other methods, neither end takes the copy out of this buffer's hands.
	n, err := io.CopyBuffer(struct{ io.Writer }{encoder}, struct{ io.Reader }{log}, make([]byte, readChunk))
	if err != nil {
		return n, err
	}
	if err := encoder.Close(); err != nil {
		return n, err
	}
	_, err = io.WriteString(w, `"`)
	return n, err
}

package agent

import (
	"bufio"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"time"

	"github.com/rs/zerolog"

	"keylime/internal/api"
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

// integrityEvidence is an answer to /quotes/integrity. Its logs are read and encoded while they are sent.
type integrityEvidence struct {
	results api.QuoteResults // without the logs
	uefi    io.Reader        // nil = not sent
	ima     *listWindow      // nil = not sent
	release func()           // gives back the turn to send logs
}

// collect adds the logs to a quote: the boot log when PCR 0 was asked for, the IMA list always (wire).
func (s *server) collect(ctx context.Context, results api.QuoteResults, want integrity) (any, error) {
	evidence := integrityEvidence{results: results, release: func() {}}
	if s.logs.uefi != nil && want.mask.Has(0) {
		evidence.uefi = io.NewSectionReader(s.logs.uefi, 0, maxBootLog)
	}
	if evidence.uefi == nil && s.logs.ima == nil {
		return results, nil
	}
	ctx, cancel := context.WithTimeout(ctx, quoteWait)
	defer cancel()
	select {
	case s.streams <- struct{}{}:
		evidence.release = func() { <-s.streams }
	case <-ctx.Done():
		return nil, unable("Unable to retrieve quote", errors.New("too many measurement lists are being sent"))
	}
	if s.logs.ima != nil {
		window, err := s.logs.ima.from(want.entry)
		if err != nil {
			evidence.release()
			return nil, unable("Unable to retrieve IMA measurement list", err)
		}
		evidence.ima = &window
		evidence.results.IMAEntry = &window.first
	}
	return evidence, nil
}

// writeTo implements stream.
func (e integrityEvidence) writeTo(w http.ResponseWriter) error {
	defer e.release()
	head, err := json.Marshal(e.results)
	if err != nil {
		return fmt.Errorf("encode quote: %w", err)
	}
	w.Header().Set("Content-Type", "application/json")
	out := bufio.NewWriterSize(patientWriter{w, http.NewResponseController(w)}, readChunk)
	// The results' own closing brace comes after the logs.
	fmt.Fprintf(out, `{"code":200,"status":"Success","results":%s`, head[:len(head)-1])
	err = errors.Join(e.writeUEFI(out), e.writeIMA(out))
	if err == nil {
		_, err = io.WriteString(out, "}}")
	}
	if err == nil {
		err = out.Flush()
	}
	if err != nil {
		return errBroken{err}
	}
	return nil
}

func (e integrityEvidence) writeUEFI(out io.Writer) error {
	if e.uefi == nil {
		return nil
	}
	if _, err := io.WriteString(out, `,"mb_measurement_list":"`); err != nil {
		return err
	}
	encoder := base64.NewEncoder(base64.StdEncoding, out)
	if err := copyLog(encoder, e.uefi); err != nil {
		return fmt.Errorf("send the measured boot log: %w", err)
	}
	if err := encoder.Close(); err != nil {
		return err
	}
	_, err := io.WriteString(out, `"`)
	return err
}

func (e integrityEvidence) writeIMA(out io.Writer) error {
	if e.ima == nil {
		return nil
	}
	if _, err := io.WriteString(out, `,"ima_measurement_list":"`); err != nil {
		return err
	}
	text := &jsonText{w: out}
	if err := copyLog(text, e.ima.text); err != nil {
		return fmt.Errorf("send the IMA list: %w", err)
	}
	if err := text.Close(); err != nil {
		return err
	}
	_, err := io.WriteString(out, `"`)
	return err
}

// copyLog copies with one buffer whatever the two ends offer, in reads as long as the kernel's files like them.
func copyLog(to io.Writer, from io.Reader) error {
	_, err := io.CopyBuffer(struct{ io.Writer }{to}, struct{ io.Reader }{from}, make([]byte, readChunk))
	return err
}

// patientWriter gives each chunk its own time limit, so that a long list may take long but a peer that stops reading
// may not.
type patientWriter struct {
	w       io.Writer
	control *http.ResponseController
}

func (p patientWriter) Write(b []byte) (int, error) {
	if err := p.control.SetWriteDeadline(time.Now().Add(writeChunkLimit)); err != nil && !errors.Is(err, http.ErrNotSupported) {
		return 0, err
	}
	return p.w.Write(b)
}

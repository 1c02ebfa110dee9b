package policytool

import (
	"bufio"
	"bytes"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/rs/zerolog"

	"keylime/ima"
	"keylime/internal/policy"
	"keylime/internal/policytool/collect"
)

// maxLine bounds the lines of the text files that are read: the largest in practice are keys in measurement lists.
const maxLine = 4 << 20

// eachLine calls f with each line of r, numbered from 1, without its line feed. The line is valid until f returns.
func eachLine(r io.Reader, f func(number int, line string) error) error {
	lines := bufio.NewScanner(r)
	lines.Buffer(make([]byte, 0, 64<<10), maxLine)
	lines.Split(splitLines)
	number := 0
	for lines.Scan() {
		number++
		if err := f(number, lines.Text()); err != nil {
			return fmt.Errorf("line %d: %w", number, err)
		}
	}
	if errors.Is(lines.Err(), bufio.ErrTooLong) {
		return fmt.Errorf("line %d is longer than %d bytes", number+1, maxLine)
	}
	return lines.Err()
}

// splitLines is bufio.ScanLines, but for carriage returns, which it keeps.
func splitLines(data []byte, atEOF bool) (advance int, token []byte, err error) {
	if i := bytes.IndexByte(data, '\n'); i >= 0 {
		return i + 1, data[:i], nil
	}
	if atEOF && len(data) > 0 {
		return len(data), data, nil
	}
	return 0, nil, nil
}

// readAllowList adds a flat list, lines of a digest and a path, to the digests, and returns the size of its first
// digest. Lines without two parts are left out.
func (d *document) readAllowList(r io.Reader, log zerolog.Logger) (firstSize int, err error) {
	err = eachLine(r, func(number int, line string) error {
		line = strings.TrimSpace(line)
		i := strings.IndexAny(line, " \t")
		if i < 0 {
			if line != "" {
				log.Debug().Int("line", number).Msg("allow list: left out a line without a digest and a path")
			}
			return nil
		}
		digits, path := line[:i], strings.TrimSpace(line[i:])
		if alg, rest, named := strings.Cut(digits, ":"); named && collect.Algorithm(alg).Size() > 0 {
			digits = rest
		}
		digest, err := hex.DecodeString(digits)
		if err != nil || len(digest) > 64 {
			return fmt.Errorf("%q is no digest in hexadecimal; want \"DIGEST PATH\", as sha256sum prints it", clip(digits))
		}
		if firstSize == 0 {
			firstSize = len(digest)
		}
		d.digests.Add(path, digest)
		return nil
	})
	return firstSize, err
}

// readExcludes adds the patterns of a list, one a line. There are no comments: a pattern may begin with any character.
func (d *document) readExcludes(r io.Reader) error {
	return eachLine(r, func(_ int, line string) error {
		line = strings.TrimSpace(line)
		if line == "" {
			return nil
		}
		if err := policy.CheckExclude(line); err != nil {
			return &ruleError{line, err}
		}
		d.excludes = append(d.excludes, line)
		return nil
	})
}

// ruleError is an exclude pattern that cannot be used, in upstream's words.
type ruleError struct {
	rule string
	err  error
}

func (e *ruleError) Error() string {
	return fmt.Sprintf("Bad IMA exclude list rule '%s': %v", clip(e.rule), e.err)
}

// Unwrap returns the cause.
func (e *ruleError) Unwrap() error { return e.err }

// measured says what is taken from a measurement list beside the digests of files.
type measured struct {
	keyrings, buffers bool
}

// readMeasurements adds what an IMA measurement list (ASCII) holds, and returns the algorithm that its first line, the
// boot aggregate, goes by.
//
// Lines are cut at their spaces rather than parsed: lists that were copied by hand have often lost the space at the end
// of unsigned entries, and what a policy needs of them is left.
func (d *document) readMeasurements(r io.Reader, take measured, log zerolog.Logger) (collect.Algorithm, error) {
	var first collect.Algorithm
	err := eachLine(r, func(number int, line string) error {
		if number == 1 {
			first = bootAggregateAlgorithm(line)
		}
		parts := strings.Split(line, " ")
		if len(parts) < 5 {
			log.Debug().Int("line", number).Int("parts", len(parts)).Msg("measurement list: left out a line of fewer than 5 parts")
			return nil
		}
		_, digits, named := strings.Cut(parts[3], ":")
		digest, err := hex.DecodeString(digits)
		if !named || err != nil {
			log.Debug().Int("line", number).Msg("measurement list: left out a line without algorithm and digest")
			return nil
		}
		switch template, name := parts[2], parts[4]; {
		case template == "ima-ng" || template == "ima-sig":
			d.digests.Add(name, digest)
		case template == "ima-buf" && len(parts) == 6:
			d.addBuffer(name, digits, parts[5], take)
		}
		return nil
	})
	return first, err
}

// addBuffer adds an ima-buf entry to the keyrings or to the critical data, whichever it is.
func (d *document) addBuffer(name, digits, buffer string, take measured) {
	content, err := hex.DecodeString(strings.TrimSpace(buffer))
	isKey := err == nil && ima.ClassifyKey(content) != ima.NotKey
	switch {
	case isKey && take.keyrings && !slices.Contains(d.ignored, name) && !slices.Contains(d.ignored, "*"):
		name = strings.Clone(name)
		d.keyrings[name] = append(d.keyrings[name], strings.Clone(digits))
	case !isKey && take.buffers:
		name = strings.Clone(name)
		d.buffers[name] = append(d.buffers[name], strings.Clone(digits))
	}
}

// bootAggregateAlgorithm tells the algorithm of the line of the boot aggregate; "" when it is none, or its digest is not
// of the algorithm that it names.
func bootAggregateAlgorithm(line string) collect.Algorithm {
	parts := strings.Split(line, " ")
	if len(parts) < 5 || parts[4] != "boot_aggregate" || !slices.Contains([]string{"ima", "ima-ng", "ima-sig"}, parts[2]) {
		return ""
	}
	name, digits, named := strings.Cut(parts[3], ":")
	if !named {
		return claimOf("", len(parts[3])/2).alg
	}
	if alg := collect.Algorithm(name); alg.Size() > 0 && alg.Size()*2 == len(digits) {
		return alg
	}
	return ""
}

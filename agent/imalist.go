package agent

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"sync"
)

// markEvery is how many entries lie between two remembered offsets: a list of a million entries costs 32 KiB of
// marks, and finding an entry reads at most this many lines.
const markEvery = 256

// readChunk is the buffer for one read of the list. The kernel formats a securityfs file anew for each read that
// does not continue the one before, so reads are long and in order.
const readChunk = 64 << 10

// measurementList serves the IMA list from any entry on without holding it. The kernel's file has no size and grows
// while it is read; it is kept open because the agent may no longer open it after dropping its privileges. Safe for
// concurrent use.
type measurementList struct {
	file io.ReaderAt

	mu    sync.Mutex
	buf   []byte  // for one read
	marks []int64 // marks[i] is the offset of entry i*markEvery
	lines uint64  // complete lines seen
	end   int64   // offset after the last complete line
}

func newMeasurementList(file io.ReaderAt) *measurementList {
	return &measurementList{file: file, buf: make([]byte, readChunk), marks: []int64{0}}
}

// listWindow is the part of the list that one response carries.
type listWindow struct {
	first uint64 // index of its first entry
	text  *io.SectionReader
}

// from returns the list from an entry on up to what the file holds now, an unfinished last line included. An entry
// beyond the list gives the whole list from entry 0 (wire: the verifier asked with the count of an earlier boot).
func (l *measurementList) from(entry uint64) (listWindow, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	size, err := l.extend()
	if err != nil {
		return listWindow{}, fmt.Errorf("read the IMA list: %w", err)
	}
	if entry > l.lines {
		entry = 0
	}
	start, err := l.locate(entry)
	if err != nil {
		return listWindow{}, fmt.Errorf("find entry %d of the IMA list: %w", entry, err)
	}
	return listWindow{first: entry, text: io.NewSectionReader(l.file, start, size-start)}, nil
}

// complete is how many entries the list has by now. A last line without its end is not counted.
func (l *measurementList) complete() (uint64, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if _, err := l.extend(); err != nil {
		return 0, fmt.Errorf("read the IMA list: %w", err)
	}
	return l.lines, nil
}

// entries returns the complete entries from one on, at most count unless that is nil, and how many they are. An entry
// beyond the list gives the whole list, as for from.
func (l *measurementList) entries(first uint64, count *uint64) (listWindow, uint64, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if _, err := l.extend(); err != nil {
		return listWindow{}, 0, fmt.Errorf("read the IMA list: %w", err)
	}
	if first > l.lines {
		first = 0
	}
	last := l.lines
	if count != nil {
		last = first + min(*count, l.lines-first)
	}
	start, err := l.locate(first)
	if err != nil {
		return listWindow{}, 0, fmt.Errorf("find entry %d of the IMA list: %w", first, err)
	}
	end, err := l.locate(last)
	if err != nil {
		return listWindow{}, 0, fmt.Errorf("find entry %d of the IMA list: %w", last, err)
	}
	return listWindow{first: first, text: io.NewSectionReader(l.file, start, end-start)}, last - first, nil
}

// extend counts the lines that came since the last call and returns the offset of the file's end.
func (l *measurementList) extend() (size int64, err error) {
	size, err = l.scan()
	if errors.Is(err, errRewritten) {
		l.marks, l.lines, l.end = []int64{0}, 0, 0
		size, err = l.scan()
	}
	return size, err
}

// errRewritten says that the file no longer has a line end where one was: it is another list than before.
var errRewritten = errors.New("the list was replaced")

func (l *measurementList) scan() (size int64, err error) {
	offset := l.end
	if l.end > 0 {
		offset = l.end - 1 // the line end before is read again: it shows whether this is still the same list
	}
	for first := l.end > 0; ; first = false {
		n, err := l.file.ReadAt(l.buf, offset)
		chunk := l.buf[:n]
		if first {
			if n == 0 || chunk[0] != '\n' {
				return 0, errRewritten
			}
			chunk = chunk[1:]
			offset++
		}
		l.count(chunk, offset)
		offset += int64(len(chunk))
		if errors.Is(err, io.EOF) {
			return offset, nil
		}
		if err != nil {
			return 0, err
		}
	}
}

func (l *measurementList) count(chunk []byte, offset int64) {
	for {
		i := bytes.IndexByte(chunk, '\n')
		if i < 0 {
			return
		}
		chunk = chunk[i+1:]
		offset += int64(i + 1)
		l.lines++
		l.end = offset
		if l.lines%markEvery == 0 {
			l.marks = append(l.marks, offset)
		}
	}
}

// locate returns the offset of an entry, at most l.lines.
func (l *measurementList) locate(entry uint64) (int64, error) {
	if entry == l.lines {
		return l.end, nil
	}
	offset := l.marks[entry/markEvery]
	skip := entry % markEvery
	for skip > 0 {
		n, err := l.file.ReadAt(l.buf, offset)
		chunk := l.buf[:n]
		for skip > 0 {
			i := bytes.IndexByte(chunk, '\n')
			if i < 0 {
				break
			}
			chunk = chunk[i+1:]
			offset += int64(i + 1)
			skip--
		}
		if skip == 0 {
			break
		}
		if err != nil {
			return 0, fmt.Errorf("the list became shorter while it was read: %w", err)
		}
		offset += int64(len(chunk))
	}
	return offset, nil
}

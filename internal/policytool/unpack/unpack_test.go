package unpack

import (
	"bytes"
	"compress/gzip"
	"encoding/base64"
	"io"
	"strings"
	"testing"
)

// text is what the streams unpack to.
const text = "what a machine runs\n"

// streams are the text as the programs of each format write it, in base64.
var streams = map[Format][]string{
	Bzip2: {"QlpoOTFBWSZTWfS7q4gAAAnRgAAQQAAqYx6AIAAimj01G0nqEAABWDNdCaBt6PG/i7kinChIel3VxAA="},
	Xz:    {"/Td6WFoAAATm1rRGAgAhARwAAAAQz1jMAQATd2hhdCBhIG1hY2hpbmUgcnVucwoA2MzvMne5uC4AASwU+AptAx+2830BAAAAAARZWg=="},
	Zstd:  {"KLUv/QRYoQAAd2hhdCBhIG1hY2hpbmUgcnVucwrNPE/i"},
	Lz4:   {"AiFMGBYAAADwBXdoYXQgYSBtYWNoaW5lIHJ1bnMK"}, // lz4 -l
}

// wideXz says that it needs a dictionary of 512 MiB.
const wideXz = "/Td6WFoAAATm1rRGAgAhASIAAACCQKzcAQATd2hhdCBhIG1hY2hpbmUgcnVucwoA2MzvMne5uC4AASwU+AptAx+2830BAAAAAARZWg=="

func decode(t testing.TB, b64 string) []byte {
	t.Helper()
	b, err := base64.StdEncoding.DecodeString(b64)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func unpacked(data []byte) (string, Format, error) {
	r, format, err := Reader(bytes.NewReader(data))
	if err != nil {
		return "", format, err
	}
	defer r.Close()
	out, err := io.ReadAll(io.LimitReader(r, 1<<20))
	return string(out), format, err
}

func TestEachFormatIsRead(t *testing.T) {
	t.Parallel()
	for format, samples := range streams {
		for _, b64 := range samples {
			got, told, err := unpacked(decode(t, b64))
			if got != text || told != format || err != nil {
				t.Errorf("%s: read %q as %s: %v", format, got, told, err)
			}
		}
	}
	var zipped bytes.Buffer
	w := gzip.NewWriter(&zipped)
	if _, err := io.WriteString(w, text); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	if got, format, err := unpacked(zipped.Bytes()); got != text || format != Gzip || err != nil {
		t.Errorf("gzip: read %q as %s: %v", got, format, err)
	}
}

func TestWhatIsNotCompressedIsGivenAsItIs(t *testing.T) {
	t.Parallel()
	for _, data := range []string{"", "B", "070701", text} {
		if got, format, err := unpacked([]byte(data)); got != data || format != Plain || err != nil {
			t.Errorf("%q: read %q as %s: %v", data, got, format, err)
		}
	}
}

func TestDamageIsAnError(t *testing.T) {
	t.Parallel()
	for format, samples := range streams {
		data := decode(t, samples[0])
		if got, _, err := unpacked(data[:len(data)-len(data)/3]); err == nil {
			t.Errorf("%s cut short: read %q without an error", format, got)
		}
	}
	if _, _, err := unpacked([]byte("\x89LZO\x00\r\n\x1a\n")); err == nil || !strings.Contains(err.Error(), "lzop -d") {
		t.Errorf("lzo: %v", err)
	}
}

func TestStreamsCannotAskForAnyMemory(t *testing.T) {
	t.Parallel()
	if got, _, err := unpacked(decode(t, wideXz)); err == nil {
		t.Errorf("a dictionary of 512 MiB was accepted: %q", got)
	}
}

func FuzzReader(f *testing.F) {
	for _, samples := range streams {
		for _, b64 := range samples {
			f.Add(decode(f, b64))
		}
	}
	f.Add(decode(f, wideXz))
	f.Fuzz(func(t *testing.T, data []byte) {
		r, format, err := Reader(bytes.NewReader(data))
		if err != nil {
			return
		}
		defer r.Close()
		n, err := io.Copy(io.Discard, io.LimitReader(r, 1<<24))
		if format == Plain && (err != nil || n != int64(min(len(data), 1<<24))) {
			t.Fatalf("plain data of %d bytes: %d, %v", len(data), n, err)
		}
	})
}

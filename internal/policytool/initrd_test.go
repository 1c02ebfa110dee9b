package policytool

import (
	"bytes"
	"compress/gzip"
	"encoding/base64"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/klauspost/compress/zstd"
	"github.com/pierrec/lz4/v4"
	"github.com/rs/zerolog"
)

// member is an entry of an archive.
type member struct {
	name, content string
	mode          uint32
	inode, links  int
}

// archive writes members as `cpio -H newc` does.
func archive(members ...member) []byte {
	var out bytes.Buffer
	write := func(m member) {
		mode, links := m.mode, max(m.links, 1)
		if mode == 0 {
			mode = 0o100644
		}
		fmt.Fprintf(&out, "070701%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X",
			m.inode, mode, 0, 0, links, 0, len(m.content), 0, 0, 0, 0, len(m.name)+1, 0)
		out.WriteString(m.name + "\x00")
		out.Write(make([]byte, -out.Len()&3))
		out.WriteString(m.content)
		out.Write(make([]byte, -out.Len()&3))
	}
	for i, m := range members {
		if m.inode == 0 {
			m.inode = 1000 + i
		}
		write(m)
	}
	write(member{name: cpioTrailer})
	return out.Bytes()
}

func concat(parts ...[]byte) []byte { return bytes.Join(parts, nil) }

func zeros(n int) []byte { return make([]byte, n) }

func zipped(t testing.TB, data []byte, open func(io.Writer) io.WriteCloser) []byte {
	t.Helper()
	var out bytes.Buffer
	w := open(&out)
	if _, err := w.Write(data); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

func gzipped(t testing.TB, data []byte) []byte {
	return zipped(t, data, func(w io.Writer) io.WriteCloser { return gzip.NewWriter(w) })
}

func zstded(t testing.TB, data []byte) []byte {
	return zipped(t, data, func(w io.Writer) io.WriteCloser {
		z, err := zstd.NewWriter(w)
		if err != nil {
			t.Fatal(err)
		}
		return z
	})
}

// bootDir is a directory with images.
func bootDir(t testing.TB, images map[string][]byte) string {
	t.Helper()
	dir := t.TempDir()
	for name, content := range images {
		if err := os.WriteFile(filepath.Join(dir, name), content, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

var (
	microcode = archive(member{name: "early_cpio", content: "1\n"}, member{name: "kernel/x86/microcode/GenuineIntel.bin", content: "ucode"})
	mainFiles = archive(
		member{name: ".", mode: 0o040755}, member{name: "./init", content: "#!/bin/sh\n"}, member{name: "bin/a tool", content: "tool"},
		member{name: "sbin/init", content: "../init", mode: 0o120777}, member{name: "dev/console", mode: 0o020600},
		member{name: "hard1", inode: 7, links: 2}, member{name: "hard2", content: "same", inode: 7, links: 2},
		member{name: "empty1", inode: 8, links: 2}, member{name: "empty2", inode: 8, links: 2},
		member{name: "lonely", inode: 9, links: 2},
	)
	mainDigests = map[string]string{
		"/init": sum("#!/bin/sh\n"), "/bin/a_tool": sum("tool"), "/hard1": sum("same"), "/hard2": sum("same"),
		"/empty1": sum(""), "/empty2": sum(""), "/lonely": sum(""),
	}
)

func TestInitrdsOfEveryForm(t *testing.T) {
	t.Parallel()
	firmware := archive(member{name: "usr/lib/firmware/x", content: "fw"})
	withFirmware := map[string]string{"/usr/lib/firmware/x": sum("fw")}
	for path, digest := range mainDigests {
		withFirmware[path] = digest
	}
	lz4d := zipped(t, mainFiles, func(w io.Writer) io.WriteCloser { return lz4.NewWriter(w) })
	for name, c := range map[string]struct {
		image []byte
		want  map[string]string
	}{
		"plain":                          {mainFiles, mainDigests},
		"plain, padded":                  {concat(mainFiles, zeros(511)), mainDigests},
		"gzip":                           {gzipped(t, mainFiles), mainDigests},
		"zstd":                           {zstded(t, mainFiles), mainDigests},
		"lz4":                            {lz4d, mainDigests},
		"microcode, plain":               {concat(microcode, zeros(300), mainFiles), mainDigests},
		"microcode, zstd":                {concat(microcode, zeros(300), zstded(t, mainFiles)), mainDigests},
		"microcode, firmware, zstd":      {concat(microcode, zeros(2), firmware, zeros(508), zstded(t, mainFiles)), withFirmware},
		"two archives in one stream":     {gzipped(t, concat(firmware, zeros(96), mainFiles)), withFirmware},
		"two compressed streams in gzip": {concat(gzipped(t, firmware), gzipped(t, mainFiles)), withFirmware},
		"compressed, padded":             {concat(gzipped(t, mainFiles), zeros(512)), mainDigests},
	} {
		dir := bootDir(t, map[string][]byte{"initrd.img-6.12": c.image, "vmlinuz": []byte("no image")})
		if diff := cmp.Diff(c.want, collected(t, &initrds{dir, zerolog.Nop()})); diff != "" {
			t.Errorf("%s: (-want +got)\n%s", name, diff)
		}
	}
}

func TestDamagedInitrdsAreErrors(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		image []byte
		wrong string
	}{
		"empty":          {nil, "an empty image"},
		"zeros":          {zeros(1000), "an empty image"},
		"text":           {[]byte("what is this"), "neither a cpio archive nor compressed"},
		"cut":            {mainFiles[:len(mainFiles)-200], "cut short"},
		"cut in gzip":    {gzipped(t, mainFiles[:300]), "in gzip data: damaged cpio archive: cut short"},
		"gzip cut":       {gzipped(t, mainFiles)[:60], "unexpected EOF"},
		"text in gzip":   {gzipped(t, []byte("text")), "in gzip data: neither a cpio archive nor zeros"},
		"gzip in gzip":   {gzipped(t, gzipped(t, mainFiles)), "neither a cpio archive nor zeros"},
		"size no number": {concat(mainFiles[:54], []byte("zzzzzzzz"), mainFiles[62:]), `"zzzzzzzz" is no number`},
		"name of 4 GB":   {concat(mainFiles[:94], []byte("FFFFFFFF"), mainFiles[102:]), "a name of 4294967295 bytes"},
		"no next header": {concat(mainFiles[:116], []byte("xxxxxx"), mainFiles[116:]), "no header"},
		"lzo":            {[]byte("\x89LZO\x00\x0d\x0a\x1a\x0a"), "lzop -d"},
		"many archives":  {gzipped(t, bytes.Repeat(archive(), maxArchives+1)), "archives behind each other"},
	} {
		dir := bootDir(t, map[string][]byte{"initramfs.img": c.image})
		_, _, err := tool(t, "create", "runtime", "--ramdisk-dir", dir)
		if err == nil || !strings.Contains(err.Error(), c.wrong) || !strings.Contains(err.Error(), "initramfs.img") {
			t.Errorf("%s: got %v, want an error with %q and the file's name", name, err, c.wrong)
		}
	}
}

// TestCPIOIsReadAsCpioWritesIt compares with the program.
func TestCPIOIsReadAsCpioWritesIt(t *testing.T) {
	t.Parallel()
	cpio, err := exec.LookPath("cpio")
	if err != nil {
		t.Skip("cpio is not installed")
	}
	root := grow(t, map[string]string{"a": "1", "b/c": "22", "b/d": "333", "l": "-> a", "empty": ""})
	if err := os.Link(filepath.Join(root, "b/c"), filepath.Join(root, "hard")); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(cpio, "-o", "-H", "newc", "--quiet")
	cmd.Dir, cmd.Stdin = root, strings.NewReader(".\na\nb\nb/c\nb/d\nl\nempty\nhard\n")
	image, err := cmd.Output()
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]string{"/a": sum("1"), "/b/c": sum("22"), "/b/d": sum("333"), "/empty": sum(""), "/hard": sum("22")}
	dir := bootDir(t, map[string][]byte{"initrd": image})
	if diff := cmp.Diff(want, collected(t, &initrds{dir, zerolog.Nop()})); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
}

func TestXzInitrd(t *testing.T) {
	t.Parallel()
	// An archive of a file "f" with the content "hi", by xz --check=crc32, as the kernel wants it.
	const image = "/Td6WFoAAAFpIt42AgAhARYAAAB0L+Wj4AH/ADVdABgN3QRjnHIbdqG6wB11Lqvuv42HBi8tn5oQ+s3d3axxgnVq8g6atg8FbBum1fRqeyF1NSAAAAAAAMkOR00AAU2ABAAAAKrqF04+MA2LAgAAAAABWVo="
	data, err := base64.StdEncoding.DecodeString(image)
	if err != nil {
		t.Fatal(err)
	}
	dir := bootDir(t, map[string][]byte{"initramfs": concat(microcode, zeros(4), data)})
	if diff := cmp.Diff(map[string]string{"/f": sum("hi")}, collected(t, &initrds{dir, zerolog.Nop()})); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
}

func FuzzInitrd(f *testing.F) {
	f.Add(mainFiles)
	f.Add(concat(microcode, zeros(300), mainFiles))
	f.Add(gzipped(f, mainFiles))
	f.Add(zstded(f, mainFiles[:400]))
	f.Fuzz(func(t *testing.T, image []byte) {
		files := 0
		r := initrdReader{log: zerolog.Nop(), file: func(e *cpioEntry) error {
			if files++; len(e.names) == 0 {
				t.Error("a file without a name")
			}
			for _, name := range e.names {
				if !strings.HasPrefix(name, "/") {
					t.Errorf("name %q", name)
				}
			}
			_, err := io.Copy(io.Discard, io.LimitReader(e.content, 1<<20))
			return err
		}}
		if err := r.image(bytes.NewReader(image)); err == nil && len(image) == 0 {
			t.Error("an empty image was read")
		}
	})
}

package agent

import (
	"archive/zip"
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"encoding/base64"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/rs/zerolog"
)

// exampleKey is K = 00 01 … 1f.
func exampleKey() []byte {
	key := make([]byte, 32)
	for i := range key {
		key[i] = byte(i)
	}
	return key
}

// sealPayload is what the tenant does.
func sealPayload(t testing.TB, key, plain []byte) string {
	t.Helper()
	block, err := aes.NewCipher(key)
	if err != nil {
		t.Fatal(err)
	}
	gcm, err := cipher.NewGCMWithNonceSize(block, payloadIV)
	if err != nil {
		t.Fatal(err)
	}
	iv := bytes.Repeat([]byte{7}, payloadIV)
	return base64.StdEncoding.EncodeToString(gcm.Seal(iv, iv, plain, nil))
}

// zipEntry is one entry of an archive under test.
type zipEntry struct {
	name string
	mode fs.FileMode
	text string
}

func makeZip(t testing.TB, entries ...zipEntry) []byte {
	t.Helper()
	var out bytes.Buffer
	w := zip.NewWriter(&out)
	for _, e := range entries {
		header := &zip.FileHeader{Name: e.name, Method: zip.Deflate}
		header.SetMode(e.mode)
		f, err := w.CreateHeader(header)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := f.Write([]byte(e.text)); err != nil && !e.mode.IsDir() {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

func testInstaller(t *testing.T) installer {
	return installer{secure: t.TempDir(), keyName: "derived_tci_key", payloadName: "decrypted_payload", extract: true, log: zerolog.Nop()}
}

// tree lists the files below a directory with mode and content.
func tree(t testing.TB, dir string) map[string]string {
	t.Helper()
	files := map[string]string{}
	err := filepath.WalkDir(dir, func(name string, d fs.DirEntry, err error) error {
		if err != nil || name == dir {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		text := ""
		if info.Mode().IsRegular() {
			content, err := os.ReadFile(name)
			if err != nil {
				return err
			}
			text = " " + string(content)
		}
		rel, _ := filepath.Rel(dir, name)
		files[rel] = info.Mode().String() + text
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return files
}

func TestPayloadVectorDecrypts(t *testing.T) {
	t.Parallel()
	plain, err := decryptPayload(exampleKey(), "AAECAwQFBgcICQoLDA0ODw8JzBpWDITEMYNyl8CxnnflYIFi6g==")
	if err != nil || string(plain) != "hello" {
		t.Errorf("got %q, %v; want hello", plain, err)
	}
}

func TestPayloadIsUnpackedWithPrivateModes(t *testing.T) {
	t.Parallel()
	in := testInstaller(t)
	archive := makeZip(t,
		zipEntry{"autorun.sh", 0o755, "#!/bin/sh\n"},
		zipEntry{"keys/", fs.ModeDir | 0o755, ""},
		zipEntry{"keys/one.pem", 0o644, "one"},
		zipEntry{"deep/er/two.pem", 0o666, "two"},
	)
	if err := in.install(exampleKey(), sealPayload(t, exampleKey(), archive)); err != nil {
		t.Fatal(err)
	}
	want := map[string]string{
		"unzipped":                   "drwx------",
		"unzipped/autorun.sh":        "-rwx------ #!/bin/sh\n",
		"unzipped/keys":              "drwx------",
		"unzipped/keys/one.pem":      "-rw------- one",
		"unzipped/deep":              "drwx------",
		"unzipped/deep/er":           "drwx------",
		"unzipped/deep/er/two.pem":   "-rw------- two",
		"unzipped/derived_tci_key":   "-rw------- " + string(exampleKey()),
		"unzipped/decrypted_payload": "-rw------- " + string(archive),
	}
	if diff := cmp.Diff(want, tree(t, in.secure)); diff != "" {
		t.Error(diff)
	}
}

func TestPayloadThatIsNoArchiveIsDeliveredAsOneFile(t *testing.T) {
	t.Parallel()
	in := testInstaller(t)
	if err := in.install(exampleKey(), sealPayload(t, exampleKey(), []byte("secret text"))); err != nil {
		t.Fatal(err)
	}
	if got := tree(t, in.secure)["unzipped/decrypted_payload"]; got != "-rw------- secret text" {
		t.Errorf("got %q", got)
	}
}

func TestLaterPayloadReplacesTheOneBefore(t *testing.T) {
	t.Parallel()
	in := testInstaller(t)
	for _, name := range []string{"first", "second"} {
		if err := in.install(exampleKey(), sealPayload(t, exampleKey(), makeZip(t, zipEntry{name, 0o600, name}))); err != nil {
			t.Fatal(err)
		}
	}
	files := tree(t, in.secure)
	if _, stale := files["unzipped/first"]; stale || files["unzipped/second"] == "" {
		t.Errorf("got %v", files)
	}
}

// NT-64
func TestHostileArchivesAreRefusedBeforeAnythingIsWritten(t *testing.T) {
	t.Parallel()
	many := make([]zipEntry, maxZipEntries+1)
	for i := range many {
		many[i] = zipEntry{fmt.Sprintf("f%d", i), 0o600, ""}
	}
	bomb := strings.Repeat("\x00", maxUnpacked/4)
	cases := map[string]struct {
		entries []zipEntry
		want    string
	}{
		"parent":            {[]zipEntry{{"../x", 0o600, "x"}}, "leads out"},
		"parent inside":     {[]zipEntry{{"a/../../x", 0o600, "x"}}, "leads out"},
		"absolute":          {[]zipEntry{{"/etc/x", 0o600, "x"}}, "leads out"},
		"backslash":         {[]zipEntry{{`..\x`, 0o600, "x"}}, "backslashes"},
		"line break":        {[]zipEntry{{"a\nb", 0o600, "x"}}, "control characters"},
		"empty name":        {[]zipEntry{{"", 0o600, "x"}}, "leads out"},
		"link and through":  {[]zipEntry{{"link", fs.ModeSymlink | 0o777, "/etc"}, {"link/x", 0o600, "x"}}, "only files and directories"},
		"device":            {[]zipEntry{{"dev", fs.ModeDevice | fs.ModeCharDevice | 0o600, ""}}, "only files and directories"},
		"pipe":              {[]zipEntry{{"pipe", fs.ModeNamedPipe | 0o600, ""}}, "only files and directories"},
		"setuid":            {[]zipEntry{{"su", fs.ModeSetuid | 0o755, "x"}}, "setuid"},
		"twice":             {[]zipEntry{{"a", 0o600, "x"}, {"a", 0o600, "y"}}, "occurs twice"},
		"twice by detour":   {[]zipEntry{{"a", 0o600, "x"}, {"b/../a", 0o600, "y"}}, "occurs twice"},
		"too many":          {many, "more than the 4096 allowed"},
		"bomb by ratio":     {[]zipEntry{{"a", 0o600, bomb}}, "times its size"},
		"bomb by size":      {[]zipEntry{{"a", 0o600, bomb}, {"b", 0o600, bomb}, {"c", 0o600, bomb}, {"d", 0o600, bomb}, {"e", 0o600, "x"}}, "unpacks to more than"},
		"the key's name":    {[]zipEntry{{"derived_tci_key", 0o600, "x"}}, "file exists"},
		"file as directory": {[]zipEntry{{"a", 0o600, "x"}, {"a/b", 0o600, "y"}}, "file exists"},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			in := testInstaller(t)
			err := in.install(exampleKey(), sealPayload(t, exampleKey(), makeZip(t, c.entries...)))
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Fatalf("got %v, want an error with %q", err, c.want)
			}
			for file := range tree(t, in.secure) {
				if file != unpackedDir {
					t.Errorf("%s was left behind", file)
				}
			}
			if outside, _ := filepath.Glob(filepath.Join(filepath.Dir(in.secure), "x")); outside != nil {
				t.Errorf("wrote %v", outside)
			}
		})
	}
}

// NT-64: an archive whose directory understates an entry's size.
func TestArchiveThatLiesAboutSizesIsRefused(t *testing.T) {
	t.Parallel()
	archive := makeZip(t, zipEntry{"a", 0o600, strings.Repeat("a", 4096)})
	directory := bytes.LastIndex(archive, []byte("PK\x01\x02"))
	copy(archive[directory+24:], []byte{1, 0, 0, 0}) // uncompressed size
	in := testInstaller(t)
	if err := in.install(exampleKey(), sealPayload(t, exampleKey(), archive)); err == nil {
		t.Error("accepted")
	}
	if files := tree(t, in.secure); len(files) != 1 {
		t.Errorf("left behind: %v", files)
	}
}

// NT-65
func TestPayloadThatDoesNotDecryptLeavesNothingOnDisk(t *testing.T) {
	t.Parallel()
	sealed := sealPayload(t, exampleKey(), []byte("secret"))
	raw, err := base64.StdEncoding.DecodeString(sealed)
	if err != nil {
		t.Fatal(err)
	}
	flipped := bytes.Clone(raw)
	flipped[len(flipped)-1] ^= 1
	b64 := base64.StdEncoding.EncodeToString
	other := exampleKey()
	other[0] ^= 1
	cases := map[string]struct {
		key  []byte
		text string
	}{
		"wrong key":          {other, sealed},
		"tag cut off":        {exampleKey(), b64(raw[:len(raw)-1])},
		"tag altered":        {exampleKey(), b64(flipped)},
		"vector alone":       {exampleKey(), b64(raw[:payloadIV])},
		"empty":              {exampleKey(), ""},
		"no base64":          {exampleKey(), "not base64!"},
		"line break inside":  {exampleKey(), sealed[:8] + "\n" + sealed[8:]},
		"key of odd length":  {exampleKey()[:31], sealed},
		"key of AES-128":     {exampleKey()[:16], sealed},
		"vector of 12 bytes": {exampleKey(), b64(append(raw[:12:12], raw[16:]...))},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			in := testInstaller(t)
			if err := in.install(c.key, c.text); err == nil {
				t.Error("accepted")
			}
			if files := tree(t, in.secure); len(files) != 0 {
				t.Errorf("wrote %v", files)
			}
		})
	}
}

func TestRefusedPayloadLeavesTheOneBefore(t *testing.T) {
	t.Parallel()
	in := testInstaller(t)
	if err := in.install(exampleKey(), sealPayload(t, exampleKey(), []byte("good"))); err != nil {
		t.Fatal(err)
	}
	if err := in.install(exampleKey(), sealPayload(t, exampleKey(), makeZip(t, zipEntry{"../x", 0o600, ""}))); err == nil {
		t.Fatal("accepted")
	}
	if got := tree(t, in.secure)["unzipped/decrypted_payload"]; got != "-rw------- good" {
		t.Errorf("got %q", got)
	}
}

// FuzzInstall: whatever an archive holds, nothing appears outside the unpacked directory, and no link inside.
func FuzzInstall(f *testing.F) {
	f.Add(makeZip(f, zipEntry{"autorun.sh", 0o755, "#!/bin/sh\n"}, zipEntry{"d/e", 0o600, "x"}))
	f.Add(makeZip(f, zipEntry{"../x", 0o600, "x"}))
	f.Add(makeZip(f, zipEntry{"link", fs.ModeSymlink | 0o777, "/etc"}, zipEntry{"link/x", 0o600, "x"}))
	f.Add([]byte("no archive"))
	f.Fuzz(func(t *testing.T, payload []byte) {
		base := t.TempDir()
		in := installer{secure: filepath.Join(base, "secure"), keyName: "k", payloadName: "p", extract: true, log: zerolog.Nop()}
		if err := os.Mkdir(in.secure, 0o700); err != nil {
			t.Fatal(err)
		}
		_ = in.install(exampleKey(), sealPayload(t, exampleKey(), payload))
		for name, what := range tree(t, base) {
			inside := name == "secure" || name == "secure/unzipped" || strings.HasPrefix(name, "secure/unzipped/")
			if !inside || (what[0] != 'd' && what[0] != '-') {
				t.Errorf("%s: %.20q", name, what)
			}
		}
	})
}

package main

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
)

const module = "keylime"

// imports lists, for each package, the packages of this module that it may import and why. Imports point down:
// roles, then edges (sockets, disk, TPM), then contracts (wire, persistence), then the pure core.
var imports = []struct {
	pkg   string
	allow string
	why   string
}{
	{"tpm", "", "bottom: structures and cryptography only"},
	{"internal/uefi", "tpm", "replays event logs against verified PCRs"},
	{"ima/dm", "", "bottom: a parser of measured texts"},
	{"ima", "tpm internal/strictjson", "replays lists against verified PCRs; keyrings are JSON"},
	{"internal/strictjson", "", "bottom: a decoder"},
	{"internal/snp", "", "bottom: reports of AMD processors"},
	{"internal/policy", "ima ima/dm tpm internal/strictjson internal/uefi", "compiles what measurements are compared with"},
	{"internal/attest", "internal/policy ima ima/dm tpm internal/strictjson internal/uefi", "decides; sees nothing of wire, store or configuration"},
	{"internal/evidence", "internal/attest internal/policy internal/snp internal/strictjson tpm", "judges what is handed in; finds nothing itself"},
	{"internal/ear", "internal/evidence", "says what evidence came to, in tokens for others"},
	{"store", "internal/attest internal/policy tpm", "records hold the core's state and verdict; never wire types"},
	{"store/bolt", "store internal/attest internal/policy tpm", "one engine; never another"},
	{"store/storetest", "store internal/attest internal/policy tpm", "the contract of every engine"},
	{"internal/api", "internal/strictjson", "wire vocabulary: knows neither store nor core"},
	{"internal/jsonapi", "internal/api internal/strictjson internal/web", "documents of API 3.0, for both servers"},
	{"internal/web", "internal/api internal/strictjson internal/pki", "what every HTTP server here shares"},
	{"internal/pki", "tpm", "certificates; an EK certificate is compared with a TPM key"},
	{"internal/vcek", "internal/pki internal/snp", "files and AMD's service around snp"},
	{"internal/spelling", "", "bottom: a measure"},
	{"internal/config", "internal/pki internal/spelling", "options, among them certificate files in pki's terms; knows no role's logic"},
	{"internal/zmtp", "", "bottom: frames of ZeroMQ connections"},
	{"internal/notify", "internal/api internal/zmtp", "delivers messages; declares the outbox that it needs"},
	{"tpm/device", "tpm", "the only package that talks to a TPM"},
	{"internal/recorded", "", "bottom: test data"},
	{"internal/fleet", "tpm internal/api internal/uefi", "software attesters: they speak as agents do, and write logs as firmware does"},
	{"internal/swtpm", "tpm tpm/device internal/fleet", "a software TPM for the demo and the tests; its measurement list is written as fleet writes one"},
	{"internal/argparse", "", "bottom: command lines as Python's programs take them"},
	{"internal/python", "", "bottom: how Python prints values"},
	{"internal/policytool/collect", "", "bottom: digests of files, whatever they were read from"},
	{"internal/policytool/unpack", "", "bottom: decompression"},
	{"internal/policytool/archive", "internal/policytool/collect internal/policytool/unpack", "reads archives; knows nothing of packages"},
	{"internal/policytool/repo", "internal/policytool/archive internal/policytool/collect", "what repositories of every kind have in common"},
	{"internal/policytool/rpm", "internal/policytool/archive internal/policytool/collect internal/policytool/repo", "one kind of repository; never another"},
	{"internal/policytool/deb", "internal/policytool/archive internal/policytool/collect internal/policytool/repo", "one kind of repository; never another"},
	{"internal/policytool/oci", "internal/policytool/archive internal/policytool/collect internal/policytool/repo internal/policytool/unpack internal/strictjson", "images; a layout in a directory is a site"},
	{"internal/policytool", "ima internal/argparse internal/attest internal/config internal/daemon internal/policy internal/policytool/collect internal/policytool/deb internal/policytool/oci internal/policytool/repo internal/policytool/rpm internal/policytool/unpack internal/python internal/spelling internal/strictjson internal/uefi tpm", "I/O around policy: files, keys, terminals"},
	{"internal/verifytool", "internal/api internal/ear internal/evidence internal/pki internal/policy internal/policytool internal/strictjson internal/vcek", "I/O around evidence"},
	{"internal/daemon", "internal/config", "what the daemons' command lines share"},
	{"agent", "internal/api internal/daemon internal/web internal/config internal/pki internal/strictjson internal/zmtp tpm tpm/device", "the attester holds no store and decides nothing"},
	{"registrar", "internal/api internal/daemon internal/jsonapi internal/web internal/config internal/pki internal/strictjson store tpm", "proves AKs; appraises nothing"},
	{"verifier", "internal/api internal/daemon internal/web internal/config internal/jsonapi internal/pki internal/notify internal/strictjson internal/attest internal/ear internal/evidence internal/policy internal/snp internal/vcek store ima tpm", "appraises; touches no TPM"},
	{"tenant", "internal/api internal/argparse internal/config internal/daemon internal/pki internal/policy internal/python internal/strictjson ima tpm", "a client; holds no store"},
	{".", "agent registrar verifier tenant internal/config internal/daemon internal/policytool internal/verifytool store store/bolt", "composes the roles"},
	{"internal/isolated", "", "tests only"},
	{"internal/e2e", "", "tests only"},
	{"scripts/demo", "internal/swtpm", "drives the executable as a user would"},
}

// pure packages decide; they may not reach for the outside world themselves.
var pure = []string{"tpm", "ima", "ima/dm", "internal/uefi", "internal/snp", "internal/policy", "internal/attest", "internal/evidence", "internal/strictjson"}

var impure = []string{
	"net", "net/http", "os", "os/exec", "log", "log/slog", "math/rand", "math/rand/v2", "crypto/rand",
	"github.com/rs/zerolog", "github.com/urfave/cli/v2", "go.etcd.io/bbolt", "io/ioutil", "syscall",
}

// TestImports holds the architecture: every import between packages of this module is listed with its reason.
func TestImports(t *testing.T) {
	allowed := map[string][]string{}
	for _, row := range imports {
		allowed[row.pkg] = strings.Fields(row.allow)
	}
	eachFile(t, func(pkg, name string, file *ast.File) {
		allow, known := allowed[pkg]
		if !known {
			t.Errorf("%s: package %q is not in the table of imports; add it with its reason", name, pkg)
			return
		}
		for _, spec := range file.Imports {
			imported, _ := strconv.Unquote(spec.Path.Value)
			local, ours := strings.CutPrefix(imported, module+"/")
			if ours && !slices.Contains(allow, local) {
				t.Errorf("%s imports %s, which its package may not", name, imported)
			}
			if slices.Contains(pure, pkg) && slices.Contains(impure, imported) {
				t.Errorf("%s imports %s, but %s is pure", name, imported, pkg)
			}
			if imported == "github.com/rs/zerolog/log" {
				t.Errorf("%s imports the global logger; take a zerolog.Logger at construction", name)
			}
			if imported == "github.com/urfave/cli/v2" && path.Base(name) != "cmd.go" && pkg != "." {
				t.Errorf("%s imports cli; only a role's cmd.go does", name)
			}
		}
	})
}

// TestPureReadsNoClock holds that appraisal depends on its arguments alone.
func TestPureReadsNoClock(t *testing.T) {
	eachFile(t, func(pkg, name string, file *ast.File) {
		if !slices.Contains(pure, pkg) {
			return
		}
		ast.Inspect(file, func(n ast.Node) bool {
			sel, ok := n.(*ast.SelectorExpr)
			if !ok {
				return true
			}
			if x, ok := sel.X.(*ast.Ident); ok && x.Name == "time" && (sel.Sel.Name == "Now" || sel.Sel.Name == "Since") {
				t.Errorf("%s calls time.%s, but %s is pure", name, sel.Sel.Name, pkg)
			}
			return true
		})
	})
}

// TestSizes keeps files and functions small enough to have one subject.
func TestSizes(t *testing.T) {
	const maxFile, maxFunc = 600, 80
	eachFile(t, func(pkg, name string, file *ast.File) {
		fset := fileSet
		if lines := fset.Position(file.End()).Line; lines > maxFile {
			t.Errorf("%s has %d lines; split it by subject (at most %d)", name, lines, maxFile)
		}
		for _, d := range file.Decls {
			fn, ok := d.(*ast.FuncDecl)
			if !ok {
				continue
			}
			if lines := fset.Position(fn.End()).Line - fset.Position(fn.Pos()).Line + 1; lines > maxFunc {
				t.Errorf("%s: %s has %d lines (at most %d)", name, fn.Name.Name, lines, maxFunc)
			}
		}
	})
}

// negativeTests are the attacks of the catalogue that this release must withstand.
const negativeTests = `
	01 02 03 04 05 06 07 08 09 10 11 12 13 14 15 16 17 18 19 1A 1B
	20 21 22 23 24 25 26 27 28 29 30 31 32 33 34 35 36 37 38 39 3A 3B 3C 3D
	40 41 42 43 44 45 46 47 48 49 50 51 52 53 54 55 56 57 58 59
	60 61 62 63 64 65 66 67 68 69 70 71 72 73
	80 81 82 83 84 85 86 87 88 89 8A 8B
	90 91 92 93 94 95 97 98`

// TestNegativeTests holds that each known attack has a test that names it.
func TestNegativeTests(t *testing.T) {
	named := map[string]bool{}
	id := regexp.MustCompile(`NT-([0-9A-F]{2})\b`)
	err := filepath.WalkDir(".", func(name string, d fs.DirEntry, err error) error {
		if err != nil || !strings.HasSuffix(name, "_test.go") {
			return err
		}
		text, err := os.ReadFile(name)
		for _, m := range id.FindAllSubmatch(text, -1) {
			named[string(m[1])] = true
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, n := range strings.Fields(negativeTests) {
		if !named[n] {
			t.Errorf("no test names NT-%s", n)
		}
	}
}

var fileSet = token.NewFileSet()

// eachFile parses every non-test Go file of the module and calls f with its package's path below the module's.
func eachFile(t *testing.T, f func(pkg, name string, file *ast.File)) {
	t.Helper()
	files := 0
	err := filepath.WalkDir(".", func(name string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() && name != "." && (strings.HasPrefix(d.Name(), ".") || d.Name() == "testdata") {
			return filepath.SkipDir
		}
		if d.IsDir() || !strings.HasSuffix(name, ".go") || strings.HasSuffix(name, "_test.go") {
			return nil
		}
		file, err := parser.ParseFile(fileSet, name, nil, parser.ParseComments)
		if err != nil {
			return err
		}
		files++
		f(filepath.ToSlash(filepath.Dir(name)), filepath.ToSlash(name), file)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if files == 0 {
		t.Fatal("found no Go files")
	}
}

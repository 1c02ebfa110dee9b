package e2e

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"
)

// TestScripts runs the executable as its manual shows it, one file a story.
func TestScripts(t *testing.T) {
	t.Parallel()
	bin := t.TempDir()
	for _, name := range []string{"keylime", "keylime_tenant", "keylime_verifier", "keylime_registrar", "keylime_agent"} {
		if err := os.Symlink(executable(t), filepath.Join(bin, name)); err != nil {
			t.Fatal(err)
		}
	}
	testscript.Run(t, testscript.Params{
		Dir: "testdata/script",
		Setup: func(env *testscript.Env) error {
			env.Setenv("PATH", bin+string(os.PathListSeparator)+env.Getenv("PATH"))
			env.Setenv("KEYLIME_DIR", filepath.Join(env.WorkDir, "keylime"))
			return os.Mkdir(filepath.Join(env.WorkDir, "keylime"), 0o700)
		},
	})
}

package config

// Server configures what the server roles share, and `keylime server`, which runs registrar and verifier over one store.
type Server struct {
	KeylimeDir string // working directory of verifier, registrar and tenant
	Store      string // bbolt file of `keylime server`
}

// DefaultDir is the working directory when nothing names another.
const DefaultDir = "/var/lib/keylime"

func (s *Server) options() []option {
	return []option{
		{"keylime_dir", text(&s.KeylimeDir, DefaultDir), "working directory of verifier, registrar and tenant; KEYLIME_DIR beats it"},
		{"store", text(&s.Store, "keylime.db"), "database file of `keylime server`; a relative path is under the working directory"},
	}
}

// finish makes paths absolute. dir is KEYLIME_DIR.
func (s *Server) finish(dir string) []error {
	if dir != "" {
		s.KeylimeDir = dir
	}
	abs, err := absoluteDir("keylime_dir", s.KeylimeDir)
	if err != nil {
		return []error{err}
	}
	s.KeylimeDir, s.Store = abs, under(abs, s.Store)
	return nil
}

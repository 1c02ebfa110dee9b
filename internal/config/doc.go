// Package config turns defaults, files, environment and flags into one typed struct per role.
//
// Each role declares its options once, in a table (see option): name, destination, default and meaning. The table
// drives every source, the example file, the reference in docs and `config show`. Sources, later ones win:
//
//	defaults < file < environment < flags
//
// The file is either keylime.toml, one table per role, strict; or Keylime's own files (verifier.conf, agent.conf
// and so on with their snippets), read in the dialects their owners wrote them for. Option names are the same in both.
//
// Loading reads files and the environment handed in by Sources; it changes nothing and keeps no global state.
package config

package config

import "strings"

// ignored is an option that has no effect here by design.
func ignored(def string) value { return &foreignValue{def: def, text: def} }

// later is an option that this release does not implement; a value other than the default earns a warning.
func later(def string) value { return &foreignValue{def: def, text: def, warn: true} }

// unsupported is later for options that make a check stricter or change what a role is: any value but the default is
// an error, because running on without it would be less than was asked for.
func unsupported(def string) value { return &foreignValue{def: def, text: def, refuse: true} }

// foreignValue keeps what a source says of an option that has no destination.
type foreignValue struct {
	def, text    string
	warn, refuse bool
}

func (v *foreignValue) set(raw any) error {
	s, err := scalarText(raw)
	if err != nil {
		s = "a list"
	}
	v.text = s
	return nil
}

// isDefault reports whether the option asks for nothing but the default; spelling does not count.
func (v *foreignValue) isDefault() bool {
	return v.text == "" || strings.EqualFold(v.text, v.def)
}

func (v *foreignValue) toml() string { return quote(v.text) }
func (v *foreignValue) form() string { return "not implemented in this release" }

func databaseOptions() []option {
	return []option{
		{"database_url", later("sqlite"), "SQL database; see store"},
		{"database_pool_sz_ovfl", ignored("5,10"), "connections to it"},
		{"auto_migrate_db", ignored("True"), "migrate its schema on start"},
	}
}

func archiveOptions(signed string) []option {
	return []option{
		{"durable_attestation_import", later(""), "archive of evidence: module"},
		{"persistent_store_url", later(""), "archive of evidence: where"},
		{"transparency_log_url", later(""), "archive of evidence: transparency log"},
		{"time_stamp_authority_url", later(""), "archive of evidence: time stamps"},
		{"time_stamp_authority_certs_path", later(""), "archive of evidence: certificates of the time stamps"},
		{"persistent_store_format", later("json"), "archive of evidence: format"},
		{"persistent_store_encoding", later(""), "archive of evidence: encoding"},
		{"transparency_log_sign_algo", later("sha256"), "archive of evidence: hash"},
		{"signed_attributes", later(signed), "archive of evidence: attributes signed"},
	}
}

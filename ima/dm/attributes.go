package dm

// form is what the value of an attribute looks like.
type form int

const (
	text     form = iota
	blank         // text, or nothing
	number        // decimal
	yesNo         // y or n
	version       // number.number.number
	mirrored      // the pairs of a mirror's devices
)

// attribute is one "name=value" of a target.
type attribute struct {
	name     string
	form     form
	optional bool
}

// common are the attributes that all targets begin with.
var common = []attribute{
	{"target_index", number, false}, {"target_begin", number, false}, {"target_len", number, false},
	{"target_name", text, false}, {"target_version", version, false},
}

// mirrorDevices is not an attribute in the text: it stands for the pairs mirror_device_N, mirror_device_N_status there.
const mirrorDevices = "mirror_device_data"

// kinds are the targets that are understood, told by their first attribute. The kernel writes the attributes in this
// order (the status functions of drivers/md, STATUSTYPE_IMA).
var kinds = []struct {
	name       string
	attributes []attribute
}{
	{"verity", []attribute{
		{"hash_failed", text, false}, {"verity_version", number, false}, {"data_device_name", text, false},
		{"hash_device_name", text, false}, {"verity_algorithm", text, false}, {"root_digest", text, false}, {"salt", text, false},
		{"ignore_zero_blocks", yesNo, false}, {"check_at_most_once", yesNo, false},
		{"root_hash_sig_key_desc", text, true}, {"verity_mode", text, true},
	}},
	{"cache", []attribute{
		{"metadata_mode", text, false}, {"cache_metadata_device", text, false}, {"cache_device", text, false},
		{"cache_origin_device", text, false}, {"writethrough", yesNo, false}, {"writeback", yesNo, false},
		{"passthrough", yesNo, false}, {"metadata2", yesNo, false}, {"no_discard_passdown", yesNo, false},
	}},
	{"crypt", []attribute{
		{"allow_discards", yesNo, false}, {"same_cpu_crypt", yesNo, false}, {"submit_from_crypt_cpus", yesNo, false},
		{"no_read_workqueue", yesNo, false}, {"no_write_workqueue", yesNo, false}, {"iv_large_sectors", yesNo, false},
		{"integrity_tag_size", number, true}, {"cipher_auth", text, true}, {"sector_size", number, true},
		{"cipher_string", text, true}, {"key_size", number, false}, {"key_parts", number, false},
		{"key_extra_size", number, false}, {"key_mac_size", number, false},
	}},
	{"integrity", []attribute{
		{"dev_name", text, false}, {"start", number, false}, {"tag_size", number, false}, {"mode", text, false},
		{"meta_device", text, true}, {"block_size", text, true}, {"recalculate", yesNo, false}, {"allow_discards", yesNo, false},
		{"fix_padding", yesNo, false}, {"fix_hmac", yesNo, false}, {"legacy_recalculate", yesNo, false},
		{"journal_sectors", number, false}, {"interleave_sectors", number, false}, {"buffer_sectors", number, false},
	}},
	{"linear", []attribute{{"device_name", text, false}, {"start", text, false}}},
	{"mirror", []attribute{
		{"nr_mirrors", number, false}, {mirrorDevices, mirrored, false}, {"handle_errors", yesNo, false},
		{"keep_log", yesNo, false}, {"log_type_status", blank, false},
	}},
	{"snapshot", []attribute{
		{"snap_origin_name", text, false}, {"snap_cow_name", text, false}, {"snap_valid", yesNo, false},
		{"snap_merge_failed", yesNo, false}, {"snapshot_overflowed", yesNo, false},
	}},
}

func isAttribute(kind, name string) bool {
	for _, a := range common {
		if a.name == name {
			return true
		}
	}
	for _, k := range kinds {
		for _, a := range k.attributes {
			if k.name == kind && a.name == name {
				return true
			}
		}
	}
	return false
}

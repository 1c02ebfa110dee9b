// Package dm reads what Linux' device mapper measures through IMA: tables loaded, devices activated, renamed and removed
// (Documentation/admin-guide/device-mapper/dm-ima.rst). Each is an ima-buf entry whose buffer is a text.
package dm

// Limits on a measurement. The kernel's own are DM_NAME_LEN and DM_UUID_LEN (128 and 129 bytes); values of attributes
// are longer, such as salts and the descriptions of keys.
const (
	maxName    = 256
	maxValue   = 4096
	maxDigits  = 20 // of a 64-bit number
	maxTargets = 4096
	maxMirrors = 64
)

// Names of the measurements.
const (
	TableLoad    = "dm_table_load"
	DeviceResume = "dm_device_resume"
	DeviceRemove = "dm_device_remove"
	TableClear   = "dm_table_clear"
	DeviceRename = "dm_device_rename"
	TargetUpdate = "dm_target_update"
)

// IsEvent reports whether an ima-buf entry of that name is a measurement of the device mapper.
func IsEvent(name []byte) bool {
	_, ok := readers[string(name)]
	return ok
}

// Event is one measurement.
type Event struct {
	Kind   string
	Device Device // zero: the measurement names none
	// Table is the hash of the device's table, as algorithm:hex; empty where there is none.
	Table            string
	NewName, NewUUID string   // dm_device_rename
	Targets          []Target // dm_table_load: all; dm_target_update: one
}

// Device is what a measurement says of a device. Numbers are decimal text.
type Device struct {
	Name, UUID                           string
	Major, Minor, MinorCount, NumTargets string
}

// Target is one row of a table: attributes by name, those of all targets (target_index and so on) and those of its kind.
type Target struct {
	Kind   string // as its attributes tell: verity, crypt and so on
	Values map[string]string
}

// Lookup returns the value of an attribute. known: the target's kind has an attribute of that name; it may still be
// absent, which a Target of the kind leaves out when it does not apply, and then present is false.
func (t Target) Lookup(name string) (value string, present, known bool) {
	value, present = t.Values[name]
	return value, present, present || isAttribute(t.Kind, name)
}

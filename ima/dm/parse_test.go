package dm

import (
	"bytes"
	"encoding/hex"
	"maps"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"keylime/internal/recorded"
)

const (
	testDevice = "name=test,uuid=CRYPT-VERITY-1-test,major=253,minor=0,minor_count=1,num_targets=1"
	head       = "dm_version=4.45.0;"
	verity     = "target_index=0,target_begin=0,target_len=204808,target_name=verity,target_version=1.8.0,hash_failed=V,verity_version=1," +
		"data_device_name=7:1,hash_device_name=7:0,verity_algorithm=sha256,root_digest=6eaf,salt=d738,ignore_zero_blocks=n,check_at_most_once=n"
	size = "current_device_capacity=204808;"
)

var wantDevice = Device{"test", "CRYPT-VERITY-1-test", "253", "0", "1", "1"}

// row is a target with the attributes of its kind.
func row(attributes string) string {
	return "target_index=0,target_begin=0,target_len=1,target_name=x,target_version=1.2.3," + attributes + ";"
}

// samples are one measurement of each kind and form, with what it says.
var samples = []struct {
	kind, text string
	want       Event
}{
	{DeviceResume, head + testDevice + ";active_table_hash=sha256:09e8;" + size, Event{Device: wantDevice, Table: "sha256:09e8"}},
	{DeviceResume, head + testDevice + ";device_resume=no_data;" + size, Event{Device: wantDevice}},
	{DeviceRemove, head + "device_active_metadata=" + testDevice + ";active_table_hash=sha256:aa,remove_all=n;" + size, Event{Device: wantDevice, Table: "sha256:aa"}},
	{DeviceRemove, head + "device_inactive_metadata=" + testDevice + ";inactive_table_hash=sha256:aa,remove_all=y;" + size, Event{Device: wantDevice}},
	{
		DeviceRemove, head + "device_active_metadata=" + testDevice + ";device_inactive_metadata=" + strings.Replace(testDevice, "minor=0", "minor=7", 1) +
			";active_table_hash=sha256:aa;inactive_table_hash=sha256:bb,remove_all=n;" + size, Event{Device: wantDevice, Table: "sha256:aa"},
	},
	{DeviceRemove, head + "device_remove=no_data;remove_all=n;" + size, Event{}},
	{TableClear, head + testDevice + ";inactive_table_hash=sha256:aa;" + size, Event{Device: wantDevice, Table: "sha256:aa"}},
	{
		TableClear, head + "name=test,uuid=;table_clear=no_data;" + strings.Repeat("\x00", 18) + size, Event{Device: Device{Name: "test"}},
	},
	{DeviceRename, head + testDevice + ";new_name=test2,new_uuid=;" + size, Event{Device: wantDevice, NewName: "test2"}},
	{TargetUpdate, head + testDevice + ";" + row("device_name=254:2,start=0"), Event{Device: wantDevice, Targets: []Target{{
		Kind: "linear", Values: map[string]string{
			"target_index": "0", "target_begin": "0", "target_len": "1", "target_name": "x", "target_version": "1.2.3",
			"device_name": "254:2", "start": "0",
		},
	}}}},
}

func TestParse(t *testing.T) {
	t.Parallel()
	for _, c := range samples {
		c.want.Kind = c.kind
		got, err := Parse(c.kind, []byte(c.text))
		if diff := cmp.Diff(c.want, got); diff != "" || err != nil {
			t.Errorf("%s %s: %v (-want +got)\n%s", c.kind, c.text, err, diff)
		}
		padded := strings.ReplaceAll(c.text, ";", "\x00\x00;\x00")
		if got, err := Parse(c.kind, []byte(padded)); err != nil || !cmp.Equal(c.want, got) {
			t.Errorf("%s %q: %v", c.kind, padded, err)
		}
	}
}

func TestParseTargets(t *testing.T) {
	t.Parallel()
	for kind, attributes := range map[string][]string{
		"verity": {
			strings.SplitN(verity, "target_version=1.8.0,", 2)[1],
			strings.SplitN(verity, "target_version=1.8.0,", 2)[1] + ",verity_mode=restart_on_corruption",
			strings.SplitN(verity, "target_version=1.8.0,", 2)[1] + ",root_hash_sig_key_desc=x,verity_mode=y",
		},
		"cache": {"metadata_mode=rw,cache_metadata_device=7:2,cache_device=7:3,cache_origin_device=7:4,writethrough=n,writeback=y,passthrough=n,metadata2=n,no_discard_passdown=n"},
		"crypt": {
			"allow_discards=n,same_cpu_crypt=n,submit_from_crypt_cpus=n,no_read_workqueue=n,no_write_workqueue=n,iv_large_sectors=n,cipher_string=aes-xts-plain64,key_size=64,key_parts=1,key_extra_size=0,key_mac_size=0",
			"allow_discards=n,same_cpu_crypt=n,submit_from_crypt_cpus=n,no_read_workqueue=n,no_write_workqueue=n,iv_large_sectors=y,integrity_tag_size=16,cipher_auth=x,sector_size=512,cipher_string=y,key_size=64,key_parts=1,key_extra_size=0,key_mac_size=0",
		},
		"integrity": {
			"dev_name=7:0,start=0,tag_size=4,mode=J,recalculate=n,allow_discards=n,fix_padding=y,fix_hmac=y,legacy_recalculate=n,journal_sectors=1584,interleave_sectors=32768,buffer_sectors=128",
			"dev_name=7:0,start=0,tag_size=4,mode=J,meta_device=7:1,block_size=512,recalculate=n,allow_discards=n,fix_padding=y,fix_hmac=y,legacy_recalculate=n,journal_sectors=1,interleave_sectors=3,buffer_sectors=1",
		},
		"linear":   {"device_name=254:2,start=0"},
		"snapshot": {"snap_origin_name=253:0,snap_cow_name=252:0,snap_valid=y,snap_merge_failed=n,snapshot_overflowed=n"},
		"mirror": {
			"nr_mirrors=2,mirror_device_0=7:3,mirror_device_0_status=A,mirror_device_1=7:2,mirror_device_1_status=A,handle_errors=y,keep_log=n,log_type_status=",
			"nr_mirrors=1,mirror_device_0=7:3,mirror_device_0_status=A,handle_errors=y,keep_log=n,log_type_status=core",
		},
	} {
		for _, a := range attributes {
			e, err := Parse(TableLoad, []byte(head+testDevice+";"+row(a)+row(a)))
			if err != nil || len(e.Targets) != 2 || e.Targets[0].Kind != kind {
				t.Errorf("%s: %+v, %v", kind, e.Targets, err)
				continue
			}
			for pair := range strings.SplitSeq(a, ",") {
				name, value, _ := strings.Cut(pair, "=")
				if got, present, known := e.Targets[1].Lookup(name); !strings.HasPrefix(name, "mirror_device_") && (got != value || !present || !known) {
					t.Errorf("%s: %s is %q, want %q", kind, name, got, value)
				}
			}
		}
	}
}

func TestLookup(t *testing.T) {
	t.Parallel()
	e, err := Parse(TableLoad, []byte(head+testDevice+";"+verity+";"))
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string][2]bool{
		"salt": {true, true}, "target_len": {true, true}, "verity_mode": {false, true}, "cipher_string": {false, false}, "": {false, false},
	} {
		if _, present, known := e.Targets[0].Lookup(name); present != want[0] || known != want[1] {
			t.Errorf("%s: present %v, known %v", name, present, known)
		}
	}
}

// NT-39, HARDEN 12: what is not understood is an error that says where.
func TestParseRefuses(t *testing.T) {
	t.Parallel()
	load := head + testDevice + ";" + verity + ";"
	for _, c := range []struct{ name, kind, text, want string }{
		{"unknown event", "dm_other", load, `"dm_other" is no measurement`},
		{"nothing", TableLoad, "", "byte 0: want dm_version="},
		{"line feed at the end", TableLoad, load + "\n", "byte 353: want target_index="},
		{"line feed behind a resume", DeviceResume, samples[0].text + "\n", "want the end"},
		{"text of another event", DeviceResume, load, "want active_table_hash="},
		{"no target", TableLoad, head + testDevice + ";", "want target_index="},
		{"space in the name", TableLoad, strings.Replace(load, "name=test", "name=te st", 1), "want ,"},
		{"empty name", TableLoad, strings.Replace(load, "name=test", "name=", 1), "want letters"},
		{"name too long", TableLoad, strings.Replace(load, "name=test", "name="+strings.Repeat("x", maxName+1), 1), "want a name"},
		{"value too long", TableLoad, strings.Replace(load, "salt=d738", "salt="+strings.Repeat("x", maxValue+1), 1), "want letters"},
		{"number too long", TableLoad, strings.Replace(load, "minor=0", "minor="+strings.Repeat("1", maxDigits+1), 1), "want a number"},
		{"no number", TableLoad, strings.Replace(load, "minor=0", "minor=x", 1), "want a number"},
		{"version of two parts", TableLoad, strings.Replace(load, "4.45.0", "4.45", 1), "want ."},
		{"neither y nor n", TableLoad, strings.Replace(load, "check_at_most_once=n", "check_at_most_once=x", 1), "want n"},
		{"attribute missing", TableLoad, strings.Replace(load, "salt=d738,", "", 1), "want salt="},
		{"attributes of no target", TableLoad, strings.Replace(load, "hash_failed", "stripes", 1), "want the attributes of"},
		{"zero inside a value", TableLoad, strings.Replace(load, "d738", "d7\x0038", 1), "want ,"},
		{"mirror without devices", TableLoad, head + testDevice + ";" + row("nr_mirrors=1,handle_errors=y,keep_log=n,log_type_status="), "want mirror_device_"},
		{"many mirrors", TableLoad, head + testDevice + ";" + row("nr_mirrors=1"+strings.Repeat(",mirror_device_0=1,mirror_device_0_status=A", maxMirrors+1)), "want no more than 64 devices"},
		{"many targets", TableLoad, head + testDevice + ";" + strings.Repeat(row("device_name=1,start=0"), maxTargets+1), "want no more than 4096 targets"},
		{"hash without algorithm", DeviceResume, strings.Replace(samples[0].text, "sha256:", "", 1), "want a hash"},
		{"odd hash", DeviceResume, strings.Replace(samples[0].text, "09e8", "09e", 1), "want a hash"},
		{"not UTF-8", TableLoad, "\xff" + load, "byte 0: want dm_version="},
	} {
		if e, err := Parse(c.kind, []byte(c.text)); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %+v, %v", c.name, e, err)
		}
	}
}

// Measurements that a kernel made.
func TestParseGenuine(t *testing.T) {
	t.Parallel()
	for kind, buffer := range genuine(t) {
		if e, err := Parse(kind, buffer); err != nil || e.Device.Name != "rhel-root" {
			t.Errorf("%s %s: %+v, %v", kind, buffer, e, err)
		}
	}
}

// genuine are the device mapper's entries among the recorded lines of package ima, by name.
func genuine(t testing.TB) map[string][]byte {
	t.Helper()
	list, err := os.ReadFile("../testdata/genuine")
	if err != nil {
		t.Fatal(err)
	}
	found := map[string][]byte{}
	for line := range bytes.Lines(list) {
		if f := bytes.Fields(line); len(f) == 6 && IsEvent(f[4]) {
			if found[string(f[4])], err = hex.DecodeString(string(f[5])); err != nil {
				t.Fatal(err)
			}
		}
	}
	if len(found) == 0 {
		t.Fatal("no measurements of the device mapper among the recorded lines")
	}
	return found
}

// FuzzParse: no text panics, and zero bytes behind it change nothing.
func FuzzParse(f *testing.F) {
	kinds := slices.Sorted(maps.Keys(readers))
	for _, c := range samples {
		f.Add(slices.Index(kinds, c.kind), []byte(c.text))
	}
	for kind, buffer := range genuine(f) {
		f.Add(slices.Index(kinds, kind), buffer)
	}
	f.Fuzz(func(t *testing.T, kind int, text []byte) {
		name := kinds[uint(kind)%uint(len(kinds))]
		e, err := Parse(name, text)
		if err != nil {
			return
		}
		if again, err := Parse(name, append(text, 0, 0)); err != nil || !cmp.Equal(e, again) {
			t.Fatalf("%q: %+v became %+v, %v", text, e, again, err)
		}
	})
}

// The device mapper's entries of a machine that booted from logical volumes.
func TestParseRecorded(t *testing.T) {
	t.Parallel()
	events := 0
	for line := range bytes.Lines(recorded.File(t, "ima/ima-buf-11")) {
		f := bytes.Fields(line)
		if len(f) != 6 || !IsEvent(f[4]) {
			continue
		}
		events++
		buffer, err := hex.DecodeString(string(f[5]))
		if err != nil {
			t.Fatal(err)
		}
		if e, err := Parse(string(f[4]), buffer); err != nil || e.Device.UUID == "" {
			t.Errorf("%s: %+v, %v", buffer, e, err)
		}
	}
	if events != 4 {
		t.Errorf("%d events, want 4", events)
	}
}

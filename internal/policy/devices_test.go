package policy

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	"keylime/ima/dm"
)

// dmPolicyText is a policy of one rule, for devices whose uuid begins with CRYPT-VERITY.
const dmPolicyText = `{"version": 1, "match_on": "uuid", "rules": {"root": {
	"required": true, "device_resume_required": true,
	"device_rename": {"valid_name": "test|test2", "valid_uuid": "CRYPT-VERITY-[0-9]+"},
	"device_remove": {"allow_removal": false}, "allow_clear": false,
	"table_load": {"allow_multiple_loads": false, "name": "test", "uuid": "CRYPT-VERITY-.*", "major": 253, "minor": null, "minor_count": 1,
		"num_targets": 1, "targets": [{"target_index": 0, "target_name": "linear", "target_version": "1\\..*", "device_name": "254:2", "start": 0}]}}}}`

func dmPolicy(t testing.TB, replace ...string) *DeviceMapper {
	t.Helper()
	p, err := compileDeviceMapper(strings.NewReplacer(replace...).Replace(dmPolicyText))
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// The measurements of a device.
const (
	dmDevice = "name=test,uuid=CRYPT-VERITY-1,major=253,minor=0,minor_count=1,num_targets=1"
	dmTarget = "target_index=0,target_begin=0,target_len=8,target_name=linear,target_version=1.4.0,device_name=254:2,start=0;"
	dmSize   = ";current_device_capacity=8;"
	dmTable  = "sha256:aa"
)

func load(device, targets string) string {
	return "dm_table_load dm_version=4.45.0;" + device + ";" + targets
}

func resume(device, table string) string {
	return "dm_device_resume dm_version=4.45.0;" + device + ";active_table_hash=" + table + dmSize
}

func remove(device string) string {
	return "dm_device_remove dm_version=4.45.0;device_active_metadata=" + device + ";active_table_hash=sha256:aa,remove_all=n" + dmSize
}

func clearTable(device string) string {
	return "dm_table_clear dm_version=4.45.0;" + device + ";inactive_table_hash=sha256:aa" + dmSize
}

func rename(device, name, uuid string) string {
	return "dm_device_rename dm_version=4.45.0;" + device + ";new_name=" + name + ",new_uuid=" + uuid + dmSize
}

func update(device, target string) string {
	return "dm_target_update dm_version=4.45.0;" + device + ";" + target
}

// play applies events and returns the ids of all objections, those of the final state behind a bar.
func play(t testing.TB, p *DeviceMapper, devices Devices, events ...string) string {
	t.Helper()
	var ids []string
	for _, text := range events {
		kind, buffer, _ := strings.Cut(text, " ")
		e, err := dm.Parse(kind, []byte(buffer))
		if err != nil {
			t.Fatalf("%s: %v", text, err)
		}
		for _, f := range p.Apply(devices, e, dmTable) {
			ids = append(ids, f.Event)
		}
	}
	ids = append(ids, "|")
	for _, f := range p.Check(devices) {
		ids = append(ids, f.Event)
	}
	return strings.Join(ids, " ")
}

func TestDevices(t *testing.T) {
	t.Parallel()
	with := func(from, to string) string { return strings.Replace(dmDevice, from, to, 1) }
	target := func(from, to string) string { return strings.Replace(dmTarget, from, to, 1) }
	const invalid = "device_invalid_state required_policy_not_in_use"
	loaded, active := load(dmDevice, dmTarget), resume(dmDevice, dmTable)
	for _, c := range []struct {
		name    string
		replace []string // in the policy
		events  []string
		want    string
	}{
		{"nothing happened", nil, nil, "| required_policy_not_in_use"},
		{"nothing happened, nothing required", []string{`"required": true`, `"required": false`}, nil, "|"},
		{"loaded and activated", nil, []string{loaded, active}, "|"},
		{"loaded only", nil, []string{loaded}, "| " + invalid},
		{"loaded only, that is enough", []string{`"device_resume_required": true`, `"device_resume_required": false`}, []string{loaded}, "|"},

		{"loaded twice", nil, []string{loaded, loaded, active}, "dm_table_load.multiple_table_loads |"},
		{"loaded twice, allowed", []string{`"allow_multiple_loads": false`, `"allow_multiple_loads": true`}, []string{loaded, loaded, active}, "|"},
		{"unknown device", nil, []string{load(with("CRYPT-VERITY-1", "LVM-1"), dmTarget)}, "dm_table_load.no_matching_policy | required_policy_not_in_use"},
		{"key that only begins like the rule's", []string{`"CRYPT-VERITY-.*"`, `"CRYPT"`}, []string{loaded}, "dm_table_load.no_matching_policy | required_policy_not_in_use"},
		{"other name", nil, []string{load(with("name=test", "name=evil"), dmTarget)}, "dm_table_load.invalid_entry | required_policy_not_in_use"},
		{"other major", nil, []string{load(with("major=253", "major=25"), dmTarget)}, "dm_table_load.invalid_entry | required_policy_not_in_use"},
		{"two targets", nil, []string{load(dmDevice, dmTarget+dmTarget)}, "dm_table_load.num_targets_mismatch | required_policy_not_in_use"},
		{"two targets, said so", []string{`"num_targets": 1`, `"num_targets": null`}, []string{load(with("num_targets=1", "num_targets=2"), dmTarget+dmTarget)}, "dm_table_load.num_targets_mismatch | required_policy_not_in_use"},
		{"other data device", nil, []string{load(dmDevice, target("254:2", "254:3")), active}, "dm_table_load.target_data_mismatch dm_table_load.target_data_invalid |"},
		{"attribute of another target", []string{`"start": 0`, `"salt": "x"`}, []string{loaded, active}, "dm_table_load.target_attribute_not_found |"},
		{"attribute of another target, any value", []string{`"start": 0`, `"salt": null`}, []string{loaded, active}, "dm_table_load.target_attribute_not_found |"},
		{"more targets than the policy describes", []string{`"target_index": 0, "target_name": "linear", "target_version": "1\\..*", "device_name": "254:2", "start": 0`, ``}, []string{loaded, active}, "|"},

		{"activated before it was loaded", nil, []string{active}, "dm_device_resume.resume_before_table_load | required_policy_not_in_use"},
		{"activated twice", nil, []string{loaded, active, active}, "dm_device_resume.already_active | " + invalid},
		{"another table activated", nil, []string{loaded, resume(dmDevice, "sha256:bb")}, "dm_device_resume.active_table_mismatch | " + invalid},
		{"no table activated", nil, []string{loaded, strings.Replace(active, "active_table_hash="+dmTable, "device_resume=no_data", 1)}, "dm_device_resume.active_table_mismatch | " + invalid},

		{"renamed as allowed", nil, []string{loaded, active, rename(dmDevice, "test2", "CRYPT-VERITY-1")}, "|"},
		{"renamed otherwise", nil, []string{loaded, active, rename(dmDevice, "evil", "CRYPT-VERITY-1")}, "dm_device_rename.new_name_invalid | " + invalid},
		{"new uuid, by which it goes on", nil, []string{loaded, active, rename(dmDevice, "test", "CRYPT-VERITY-2"), active}, "dm_device_resume.resume_before_table_load |"},
		{"new uuid, then activated", nil, []string{loaded, rename(dmDevice, "test", "CRYPT-VERITY-2"), resume(with("VERITY-1", "VERITY-2"), dmTable)}, "|"},
		{"new uuid not allowed", nil, []string{loaded, active, rename(dmDevice, "test", "x")}, "dm_device_rename.new_uuid_invalid | " + invalid},
		{"new name, by which it goes on", []string{`"match_on": "uuid"`, `"match_on": "name"`}, []string{loaded, rename(dmDevice, "test2", "CRYPT-VERITY-1"), resume(with("name=test", "name=test2"), dmTable)}, "|"},
		{"unknown renamed", nil, []string{rename(dmDevice, "test2", "")}, "dm_device_rename.rename_before_table_load | required_policy_not_in_use"},

		{"removed", nil, []string{loaded, active, remove(dmDevice)}, "dm_device_remove.device_removed | " + invalid},
		{"removed, allowed", []string{`"allow_removal": false`, `"allow_removal": true`}, []string{loaded, active, remove(dmDevice)}, "| required_policy_not_in_use"},
		{"unknown removed", nil, []string{remove(dmDevice)}, "dm_device_remove.remove_before_table_load | required_policy_not_in_use"},
		{"nobody knows what removed", nil, []string{"dm_device_remove dm_version=1.2.3;device_remove=no_data;remove_all=n" + dmSize}, "dm_device_remove.remove_before_table_load | required_policy_not_in_use"},
		{"table cleared", nil, []string{loaded, active, clearTable(dmDevice)}, "dm_table_clear.table_cleared | " + invalid},
		{"table cleared, allowed", []string{`"allow_clear": false`, `"allow_clear": true`}, []string{loaded, active, clearTable(dmDevice)}, "|"},
		{"unknown table cleared", nil, []string{clearTable(dmDevice)}, "dm_table_clear.clear_before_table_load | required_policy_not_in_use"},

		{"target unchanged", nil, []string{loaded, active, update(dmDevice, dmTarget)}, "|"},
		{"target changed", nil, []string{loaded, active, update(dmDevice, target("start=0", "start=9"))}, "dm_target_update.target_data_mismatch dm_target_update.target_data_invalid |"},
		{"HARDEN 12: target that there is none of", nil, []string{loaded, active, update(dmDevice, target("target_index=0", "target_index=7"))}, "dm_target_update.target_data_invalid |"},
		{"target of an unknown device", nil, []string{update(dmDevice, dmTarget)}, "dm_target_update.update_before_table_load | required_policy_not_in_use"},
	} {
		if got := play(t, dmPolicy(t, c.replace...), Devices{}, c.events...); got != c.want {
			t.Errorf("%s: got  %s\nwant %s", c.name, got, c.want)
		}
	}
}

func TestDevicesAreBounded(t *testing.T) {
	t.Parallel()
	p, devices := dmPolicy(t), Devices{}
	for n := range maxDevices + 5 {
		play(t, p, devices, load(strings.Replace(dmDevice, "VERITY-1", fmt.Sprintf("VERITY-%d", n), 1), dmTarget))
	}
	if len(devices) != maxDevices {
		t.Errorf("%d devices", len(devices))
	}
}

// A rule that is gone has nothing to say for a device that it once allowed.
func TestDevicesOfAnotherPolicy(t *testing.T) {
	t.Parallel()
	devices := Devices{"CRYPT-VERITY-1": {Active: true, Valid: true, Table: dmTable, Rule: "gone"}}
	if got := play(t, dmPolicy(t), devices, update(dmDevice, dmTarget)); got != "dm_target_update.update_before_table_load | device_invalid_state required_policy_not_in_use" {
		t.Error(got)
	}
}

func TestDMMatch(t *testing.T) {
	t.Parallel()
	for raw, values := range map[string]map[string]bool{
		`null`:     {"": true, "x": true},
		`true`:     {"y": true, "YES": true, "1": true, "on": true, "n": false, "x": false, "": false},
		`false`:    {"n": true, "0": true, "Off": true, "y": false, "": false},
		`7`:        {"7": true, "007": true, "8": false, "7.0": false, "x": false, "99999999999999999999": false},
		`-1`:       {"-1": true, "1": false},
		`"a|bc"`:   {"a": true, "bc": true, "abc": false, "b": false, "a\n": false},
		`""`:       {"": true, "x": false},
		`"a.*"`:    {"abc": true, "xabc": false},
		`"(?i:A)"`: {"a": true},
	} {
		m, err := dmMatchOf(raw)
		if err != nil {
			t.Errorf("%s: %v", raw, err)
			continue
		}
		for value, want := range values {
			if m.matches(value, true) != want {
				t.Errorf("%s matches %q: %v", raw, value, !want)
			}
		}
		if m.matches("", false) != (raw == "null") {
			t.Errorf("%s matches an absent value: %v", raw, raw != "null")
		}
	}
}

func TestCompileDeviceMapperRefuses(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ from, to, want string }{
		{`"version": 1`, `"version": 2`, "'version' must be 1"},
		{`"version": 1, `, ``, "'version' must be 1"},
		{`"match_on": "uuid"`, `"match_on": "major"`, "'match_on' must be"},
		{`"match_on"`, `"matchon"`, "unknown field"},
		{`"rules": {"root"`, `"rules": [], "x": {"root"`, "unknown field"},
		{`"required": true`, `"required": 1`, `rule "root": json`},
		{`"required": true, `, ``, `rule "root": want 'required'`},
		{`"allow_removal": false`, ``, `rule "root": want 'required'`},
		{`"allow_clear": false`, `"allow_clear": false, "x": 1`, `rule "root": json: unknown field`},
		{`"valid_uuid": "CRYPT-VERITY-[0-9]+"`, `"valid_uuid": "["`, `rule "root": 'valid_uuid': `},
		{`"valid_name": "test|test2", `, ``, `rule "root": 'valid_name': is missing`},
		{`"major": 253`, `"major": [253]`, `rule "root": 'table_load': 'major': [253] is neither`},
		{`"major": 253`, `"major": 253.5`, `rule "root": 'table_load': 'major': 253.5 is neither`},
		{`"major": 253, `, ``, `rule "root": 'table_load': 'major': is missing`},
		{`"major": 253`, `"major": 253, "x": 1`, `rule "root": 'table_load': unknown member "x"`},
		{`"uuid": "CRYPT-VERITY-.*"`, `"uuid": null`, `rule "root": 'table_load': 'uuid' is what rules are chosen by`},
		{`"allow_multiple_loads": false`, `"allow_multiple_loads": null`, `rule "root": 'table_load': 'allow_multiple_loads' must be`},
		{`"device_name": "254:2"`, `"device_name": "(?=x)"`, `rule "root": 'table_load': 'targets': "device_name": `},
		{`"targets": [`, `"targets": [1, `, `rule "root": 'table_load': 'targets': `},
		{`"root"`, `"` + strings.Repeat("x", maxDMName+1) + `"`, "the name exceeds"},
	} {
		if _, err := compileDeviceMapper(strings.Replace(dmPolicyText, c.from, c.to, 1)); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v", c.to, err)
		}
	}
}

// HARDEN 11: a dm_policy is accepted where it is allowed, and nowhere else.
func TestDMPolicyMustBeAllowed(t *testing.T) {
	t.Parallel()
	text := strings.Replace(EmptyRuntime, `"dm_policy":null`, `"dm_policy":`+dmPolicyText, 1)
	if _, err := CompileRuntime([]byte(text)); err == nil || !strings.HasSuffix(err.Error(), "is not of type 'null'") {
		t.Errorf("not allowed: %v", err)
	}
	r, err := CompileRuntime([]byte(text), DMPolicy)
	if err != nil || r.DeviceMapper() == nil {
		t.Fatalf("allowed: %v", err)
	}
	if r, err = CompileRuntime([]byte(EmptyRuntime), DMPolicy); err != nil || r.DeviceMapper() != nil {
		t.Errorf("null: %v", err)
	}
	for bad, want := range map[string]string{
		`{"version": 1}`: "dm_policy: 'match_on' must be",
		`[]`:             "[] is not of type 'null'",
		`"x"`:            "'x' is not of type 'null'",
	} {
		_, err := CompileRuntime([]byte(strings.Replace(EmptyRuntime, `"dm_policy":null`, `"dm_policy":`+bad, 1)), DMPolicy)
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", bad, err)
		}
	}
	if _, err := CompileRuntime([]byte(strings.Replace(EmptyRuntime, `"dm_policy":null`, `"dm_policy":{"version": 1}`, 1))); err == nil ||
		err.Error() != "Runtime policy is malformatted: {'version': 1} is not of type 'null'" {
		t.Errorf("upstream's text: %v", err)
	}
}

func TestDevicesClone(t *testing.T) {
	t.Parallel()
	d := Devices{"a": {Rule: "r"}}
	c := d.Clone()
	c["b"] = DeviceState{}
	if got := slices.Collect(maps.Keys(d)); len(got) != 1 || Devices(nil).Clone() == nil {
		t.Errorf("%v", got)
	}
}

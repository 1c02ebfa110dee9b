package policy

import (
	"maps"
	"slices"

	"keylime/ima/dm"
)

// Devices are the device-mapper devices that a machine has, as far as its measurements say, by name or uuid. Apply
// changes them; Clone before applying what is not proven.
type Devices map[string]DeviceState

// DeviceState is what is known of one device.
type DeviceState struct {
	Active bool   `json:"active,omitempty"` // its table was activated
	Valid  bool   `json:"valid,omitempty"`  // the policy has no objection
	Table  string `json:"table"`            // hash of the table, as algorithm:hex
	Rule   string `json:"rule"`             // of the policy
}

// Clone is a copy that shares nothing with the original, and is never nil.
func (d Devices) Clone() Devices {
	c := make(Devices, len(d))
	maps.Copy(c, d)
	return c
}

// maxDevices bounds the state: a machine has some dozens.
const maxDevices = 1024

// DeviceFinding is an objection of the policy to what happened to a device.
type DeviceFinding struct {
	Event    string // the last part of the event id, such as "dm_table_load.no_matching_policy"
	Message  string
	Device   string
	Subject  string // attribute or rule
	Got      string
	Expected string // JSON of the policy's value
}

// Apply judges an event and notes what it did to the device. table is the hash of the event's buffer, as algorithm:hex.
func (p *DeviceMapper) Apply(devices Devices, e dm.Event, table string) []DeviceFinding {
	j := deviceJudge{policy: p, devices: devices, event: e, key: p.keyOf(e.Device)}
	if e.Kind == dm.TableLoad {
		j.load(table)
		return j.findings
	}
	state, known := devices[j.key]
	rule := p.rule(state.Rule)
	if !known || rule == nil {
		j.object(before[e.Kind], "before the device's table was loaded")
		return j.findings
	}
	j.state, j.rule = state, rule
	switch e.Kind {
	case dm.DeviceResume:
		j.resume()
	case dm.DeviceRename:
		j.rename()
	case dm.DeviceRemove:
		j.remove()
	case dm.TableClear:
		if !rule.clear {
			j.invalidate()
			j.object("table_cleared", "the device's table was cleared, which is not allowed")
		}
	case dm.TargetUpdate:
		j.update()
	}
	return j.findings
}

// before are the events of a device that is not known.
var before = map[string]string{
	dm.DeviceResume: "resume_before_table_load",
	dm.DeviceRename: "rename_before_table_load",
	dm.DeviceRemove: "remove_before_table_load",
	dm.TableClear:   "clear_before_table_load",
	dm.TargetUpdate: "update_before_table_load",
}

// Check judges the devices as they are: all must be valid, and each required rule have one.
func (p *DeviceMapper) Check(devices Devices) []DeviceFinding {
	var findings []DeviceFinding
	used := map[string]bool{}
	for _, key := range slices.Sorted(maps.Keys(devices)) {
		d := devices[key]
		if !d.Valid || p.rule(d.Rule) == nil {
			findings = append(findings, DeviceFinding{Event: "device_invalid_state", Message: "the device is not in a valid state", Device: key})
			continue
		}
		used[d.Rule] = true
	}
	for _, r := range p.rules {
		if r.required && !used[r.name] {
			findings = append(findings, DeviceFinding{
				Event: "required_policy_not_in_use", Message: "no valid device uses a rule that is required", Subject: r.name,
			})
		}
	}
	return findings
}

// deviceJudge judges one event.
type deviceJudge struct {
	policy   *DeviceMapper
	devices  Devices
	event    dm.Event
	key      string
	state    DeviceState
	rule     *dmRule
	findings []DeviceFinding
}

func (j *deviceJudge) object(event, message string) {
	j.add(DeviceFinding{Event: event, Message: message})
}

func (j *deviceJudge) add(f DeviceFinding) {
	f.Event, f.Device = j.event.Kind+"."+f.Event, j.key
	j.findings = append(j.findings, f)
}

func (j *deviceJudge) invalidate() {
	j.state.Valid = false
	j.devices[j.key] = j.state
}

// load judges a new table. A device whose targets are not as they should be is known all the same.
func (j *deviceJudge) load(table string) {
	old, known := j.devices[j.key]
	if r := j.policy.rule(old.Rule); known && (r == nil || !r.multipleLoads) {
		j.object("multiple_table_loads", "a second table was loaded for the device")
		return
	}
	i := slices.IndexFunc(j.policy.rules, func(r dmRule) bool { return r.key.MatchString(j.key) })
	if i < 0 {
		j.object("no_matching_policy", "no rule is for this device")
		return
	}
	j.rule = &j.policy.rules[i]
	if !known && len(j.devices) >= maxDevices {
		j.object("no_matching_policy", "too many devices")
		return
	}
	if !j.metadata() {
		return
	}
	for n, target := range j.event.Targets {
		if n < len(j.rule.targets) {
			j.target(target, j.rule.targets[n])
		}
	}
	j.devices[j.key] = DeviceState{Valid: !j.rule.resumeRequired, Table: table, Rule: j.rule.name}
}

// metadata judges what a table's event says of the device, and how many targets it has.
func (j *deviceJudge) metadata() bool {
	d := j.event.Device
	values := []string{d.Name, d.UUID, d.Major, d.Minor, d.MinorCount, d.NumTargets} // as dmMetadata
	for i, m := range j.rule.metadata {
		if !m.match.matches(values[i], true) {
			j.add(DeviceFinding{
				Event: "invalid_entry", Message: "the device is not as the rule wants it", Subject: m.name,
				Got: values[i], Expected: m.match.raw,
			})
			return false
		}
	}
	count := int64(len(j.event.Targets))
	said := dmMatch{number: &count}
	if !said.matches(d.NumTargets, true) || j.rule.numTargets.number == nil || *j.rule.numTargets.number != count {
		j.add(DeviceFinding{
			Event: "num_targets_mismatch", Message: "the number of targets is not that of the event or not that of the rule",
			Got: d.NumTargets, Expected: j.rule.numTargets.raw,
		})
		return false
	}
	return true
}

// target judges a row of a table.
func (j *deviceJudge) target(t dm.Target, want []dmNamed) {
	valid := true
	for _, a := range want {
		value, present, known := t.Lookup(a.name)
		switch {
		case !known:
			j.add(DeviceFinding{Event: "target_attribute_not_found", Message: "targets of this kind have no such attribute", Subject: a.name})
		case !a.match.matches(value, present):
			valid = false
			j.add(DeviceFinding{
				Event: "target_data_mismatch", Message: "an attribute of the target is not as the rule wants it", Subject: a.name,
				Got: value, Expected: a.match.raw,
			})
		}
	}
	if !valid {
		j.object("target_data_invalid", "the target is not as the rule wants it")
	}
}

// resume judges the activation of a table: the one that was loaded, once.
func (j *deviceJudge) resume() {
	switch {
	case j.state.Active:
		j.invalidate()
		j.object("already_active", "the device is active already")
	case j.state.Table != j.event.Table:
		j.invalidate()
		j.add(DeviceFinding{
			Event: "active_table_mismatch", Message: "the active table is not the one that was loaded",
			Got: j.event.Table, Expected: quote(j.state.Table),
		})
	default:
		j.state.Active, j.state.Valid = true, true
		j.devices[j.key] = j.state
	}
}

// rename judges a new name and a new uuid. The device goes by the new one from here on, if that is what it goes by.
func (j *deviceJudge) rename() {
	for _, c := range []struct {
		on, old, new, event string
		valid               dmMatch
	}{
		{"name", j.event.Device.Name, j.event.NewName, "new_name_invalid", j.rule.newName},
		{"uuid", j.event.Device.UUID, j.event.NewUUID, "new_uuid_invalid", j.rule.newUUID},
	} {
		switch {
		case c.old == c.new:
		case !c.valid.matches(c.new, true):
			j.invalidate()
			j.add(DeviceFinding{
				Event: c.event, Message: "the device's new " + c.on + " is not allowed", Subject: c.on, Got: c.new, Expected: c.valid.raw,
			})
		case j.policy.matchOn == c.on:
			delete(j.devices, j.key)
			j.key = c.new
			j.devices[j.key] = j.state
		}
	}
}

func (j *deviceJudge) remove() {
	if !j.rule.removal {
		j.invalidate()
		j.object("device_removed", "the device was removed, which is not allowed")
		return
	}
	delete(j.devices, j.key)
}

// update judges a target that changed by itself, as a verity target does that finds damage.
func (j *deviceJudge) update() {
	t := j.event.Targets[0]
	for i, want := range j.rule.targets {
		index := int64(i)
		if at := (dmMatch{number: &index}); at.matches(t.Values["target_index"], true) {
			j.target(t, want)
			return
		}
	}
	j.object("target_data_invalid", "the rule has no target of this index")
}

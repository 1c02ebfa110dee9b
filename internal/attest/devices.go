package attest

import (
	"encoding/hex"

	"keylime/ima"
	"keylime/ima/dm"
	"keylime/internal/policy"
)

// DeviceMapper is what is known of a machine's device-mapper devices from entries that were proven.
type DeviceMapper struct {
	Policy  string         `json:"policy"` // digest of the dm_policy that the devices were judged by
	Devices policy.Devices `json:"devices,omitempty"`
}

// deviceTrack follows the devices through a list. Entries beyond the quote change a copy that is thrown away.
type deviceTrack struct {
	proven policy.Devices // nil: not yet the round's own
	newer  policy.Devices // nil: no entry beyond the quote has changed anything yet
}

// unknownDevices reports whether the state lacks what the policy must know of the devices: the entries that a list begins
// with, which are not sent again, were not judged by it.
func (r *round) unknownDevices() bool {
	p := r.Policy.Runtime.DeviceMapper()
	return p != nil && (r.State.DeviceMapper == nil || r.State.DeviceMapper.Policy != p.Digest())
}

// startDevices begins with the devices of the last round, for a list that goes on from there.
func (r *round) startDevices(goesOn bool) {
	if p := r.Policy.Runtime.DeviceMapper(); p != nil {
		r.devices.proven = policy.Devices{}
		if goesOn {
			r.devices.proven = r.State.DeviceMapper.Devices.Clone()
		}
	}
}

// at is the devices that an entry changes.
func (d *deviceTrack) at(e *ima.Entry) policy.Devices {
	if d.proven == nil {
		d.proven = policy.Devices{}
	}
	if !e.Beyond() {
		return d.proven
	}
	if d.newer == nil {
		d.newer = d.proven.Clone()
	}
	return d.newer
}

// checkDevice appraises a measurement of the device mapper, whose buffer has the right digest.
func (r *round) checkDevice(line uint64, e *ima.Entry, p *policy.DeviceMapper) {
	event, err := dm.Parse(string(e.Name), e.Buffer)
	if err != nil {
		r.fail(EventDM+"parsing_failed", true, deviceContext{Message: "measurement of the device mapper: " + err.Error(), Line: line})
		return
	}
	table := string(e.Alg) + ":" + hex.EncodeToString(e.Digest)
	for _, f := range p.Apply(r.devices.at(e), event, table) {
		r.failDevice(line, f)
	}
}

// checkDevices appraises what the entries up to the quote come to, and keeps it.
func (r *round) checkDevices() {
	p := r.Policy.Runtime.DeviceMapper()
	if p == nil {
		r.next.DeviceMapper = nil
		return
	}
	for _, f := range p.Check(r.devices.proven) {
		r.failDevice(0, f)
	}
	r.next.DeviceMapper = &DeviceMapper{p.Digest(), r.devices.proven}
}

func (r *round) failDevice(line uint64, f policy.DeviceFinding) {
	r.fail(EventDM+f.Event, true, deviceContext{f.Message, f.Device, f.Subject, f.Got, f.Expected, line})
}

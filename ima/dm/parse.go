package dm

import (
	"bytes"
	"encoding/hex"
	"fmt"
	"strconv"
	"strings"
)

// Parse reads the buffer of a measurement. All of it must be understood.
func Parse(name string, buffer []byte) (Event, error) {
	read, ok := readers[name]
	if !ok {
		return Event{}, fmt.Errorf("%q is no measurement of the device mapper", name)
	}
	p := parser{rest: buffer, size: len(buffer)}
	e := Event{Kind: name}
	p.field("dm_version", version)
	p.literal(";")
	read(&p, &e)
	p.skip()
	if p.err == nil && len(p.rest) > 0 {
		p.fail("the end")
	}
	if p.err != nil {
		return Event{}, p.err
	}
	return e, nil
}

var readers = map[string]func(p *parser, e *Event){
	TableLoad:    (*parser).tableLoad,
	DeviceResume: (*parser).deviceResume,
	DeviceRemove: (*parser).deviceRemove,
	TableClear:   (*parser).tableClear,
	DeviceRename: (*parser).deviceRename,
	TargetUpdate: (*parser).targetUpdate,
}

func (p *parser) tableLoad(e *Event) {
	e.Device = p.device()
	p.literal(";")
	e.Targets = append(e.Targets, p.target())
	for p.skip(); p.err == nil && len(p.rest) > 0; p.skip() {
		if len(e.Targets) == maxTargets {
			p.fail("no more than " + strconv.Itoa(maxTargets) + " targets")
			return
		}
		e.Targets = append(e.Targets, p.target())
	}
}

func (p *parser) deviceResume(e *Event) {
	e.Device = p.device()
	p.literal(";")
	if !p.take("device_resume=no_data") {
		e.Table = p.hash("active_table_hash")
	}
	p.literal(";")
	p.capacity()
}

// deviceRemove reads the active table's device and hash, the inactive one's, both or none. With both, the active count.
func (p *parser) deviceRemove(e *Event) {
	active, inactive := p.take("device_active_metadata="), false
	if active {
		e.Device = p.device()
		p.literal(";")
	}
	if p.take("device_inactive_metadata=") {
		inactive = true
		d := p.device()
		if p.literal(";"); !active {
			e.Device = d
		}
	}
	switch {
	case active && inactive:
		e.Table = p.hash("active_table_hash")
		p.literal(";")
		p.hash("inactive_table_hash")
		p.literal(",")
	case active:
		e.Table = p.hash("active_table_hash")
		p.literal(",")
	case inactive:
		p.hash("inactive_table_hash")
		p.literal(",")
	default:
		p.literal("device_remove=no_data")
		p.literal(";")
	}
	p.field("remove_all", text)
	p.literal(";")
	p.capacity()
}

// tableClear reads a device with its inactive table, or, when there was none, only the device's name.
func (p *parser) tableClear(e *Event) {
	e.Device = p.deviceName()
	if p.take(";") {
		p.literal("table_clear=no_data")
	} else {
		p.deviceNumbers(&e.Device)
		p.literal(";")
		e.Table = p.hash("inactive_table_hash")
	}
	p.literal(";")
	p.capacity()
}

func (p *parser) deviceRename(e *Event) {
	e.Device = p.device()
	p.literal(";")
	e.NewName = p.field("new_name", text)
	p.literal(",")
	e.NewUUID = p.field("new_uuid", blank)
	p.literal(";")
	p.capacity()
}

func (p *parser) targetUpdate(e *Event) {
	e.Device = p.device()
	p.literal(";")
	e.Targets = []Target{p.target()}
}

func (p *parser) device() Device {
	d := p.deviceName()
	p.deviceNumbers(&d)
	return d
}

func (p *parser) deviceName() (d Device) {
	d.Name = p.name(p.field("name", text))
	p.literal(",")
	d.UUID = p.name(p.field("uuid", blank))
	return d
}

func (p *parser) deviceNumbers(d *Device) {
	for _, f := range []struct {
		name string
		into *string
	}{{"major", &d.Major}, {"minor", &d.Minor}, {"minor_count", &d.MinorCount}, {"num_targets", &d.NumTargets}} {
		p.literal(",")
		*f.into = p.field(f.name, number)
	}
}

func (p *parser) capacity() {
	p.field("current_device_capacity", number)
	p.literal(";")
}

func (p *parser) target() Target {
	t := Target{Values: map[string]string{}}
	for _, a := range common {
		p.attribute(&t, a)
		p.literal(",")
	}
	for _, k := range kinds {
		if p.next(k.attributes[0].name + "=") {
			t.Kind = k.name
			for i, a := range k.attributes {
				p.separated(&t, a, i > 0)
			}
			p.literal(";")
			return t
		}
	}
	p.fail("the attributes of a verity, cache, crypt, integrity, linear, mirror or snapshot target")
	return t
}

// separated reads an attribute with the comma before it; an optional one only if it is there.
func (p *parser) separated(t *Target, a attribute, comma bool) {
	if a.optional {
		before := p.rest
		if there := p.take(",") && p.next(a.name+"="); !there {
			p.rest = before
			return
		}
		p.rest = before
	}
	if comma && a.form != mirrored {
		p.literal(",")
	}
	p.attribute(t, a)
}

func (p *parser) attribute(t *Target, a attribute) {
	if a.form == mirrored {
		p.mirrors()
		return
	}
	t.Values[a.name] = p.field(a.name, a.form)
}

// mirrors reads the devices of a mirror, one at least. Policies cannot name them.
func (p *parser) mirrors() {
	for n := 0; p.err == nil && (n == 0 || p.next(",mirror_device_")); n++ {
		if n == maxMirrors {
			p.fail("no more than " + strconv.Itoa(maxMirrors) + " devices of a mirror")
			return
		}
		p.literal(",")
		p.literal("mirror_device_")
		p.digits()
		p.literal("=")
		p.text(1)
		p.literal(",")
		p.literal("mirror_device_")
		p.digits()
		p.literal("_status=")
		p.text(1)
	}
}

// parser reads tokens. Zero bytes between them are padding of the kernel's and skipped. After an error nothing more is
// read.
type parser struct {
	rest []byte
	size int // of the whole buffer
	err  error
}

func (p *parser) fail(want string) {
	if p.err == nil {
		p.err = fmt.Errorf("byte %d: want %s", p.size-len(p.rest), want)
	}
}

func (p *parser) skip() { p.rest = bytes.TrimLeft(p.rest, "\x00") }

// next reports whether the text follows.
func (p *parser) next(s string) bool {
	p.skip()
	return p.err == nil && bytes.HasPrefix(p.rest, []byte(s))
}

// take reads the text if it follows.
func (p *parser) take(s string) bool {
	if !p.next(s) {
		return false
	}
	p.rest = p.rest[len(s):]
	return true
}

func (p *parser) literal(s string) {
	if !p.take(s) {
		p.fail(s)
	}
}

// field reads name=value.
func (p *parser) field(name string, f form) string {
	p.literal(name + "=")
	switch f {
	case blank:
		return p.text(0)
	case number:
		return p.digits()
	case version:
		major := p.digits()
		p.literal(".")
		minor := p.digits()
		p.literal(".")
		return major + "." + minor + "." + p.digits()
	case yesNo:
		if p.take("y") {
			return "y"
		}
		p.literal("n")
		return "n"
	}
	return p.text(1)
}

// hash reads name=algorithm:hex.
func (p *parser) hash(name string) string {
	s := p.field(name, text)
	alg, digits, _ := strings.Cut(s, ":")
	if _, err := hex.DecodeString(digits); err != nil || alg == "" || digits == "" {
		p.fail("a hash as algorithm:hex before this")
	}
	return s
}

func (p *parser) text(least int) string {
	s := p.run(isText)
	if len(s) < least || len(s) > maxValue {
		p.fail("letters, digits or -:_.+@#, " + strconv.Itoa(maxValue) + " at most")
	}
	return s
}

func (p *parser) digits() string {
	s := p.run(func(c byte) bool { return c >= '0' && c <= '9' })
	if s == "" || len(s) > maxDigits {
		p.fail("a number")
	}
	return s
}

func (p *parser) name(s string) string {
	if len(s) > maxName {
		p.fail("a name of at most " + strconv.Itoa(maxName) + " characters before this")
	}
	return s
}

// run reads characters of a kind.
func (p *parser) run(is func(c byte) bool) string {
	p.skip()
	n := 0
	for n < len(p.rest) && is(p.rest[n]) {
		n++
	}
	if p.err != nil {
		return ""
	}
	s := string(p.rest[:n])
	p.rest = p.rest[n:]
	return s
}

func isText(c byte) bool {
	return c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || bytes.IndexByte([]byte("-:_.+@#"), c) >= 0
}

package uefi

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"strings"
	"unicode/utf16"
)

// The content of an event is a tree of JSON's kinds, with the names that tpm2_eventlog and Keylime's policies use:
// Object, *Variable, []Object, []string, []SignatureList, []Signature, string, Hex, GUID, uint64 and nil.

// Object is a record with its fields in order.
type Object []Field

// Field is a name and its value.
type Field struct {
	Name  string
	Value any
}

// Get returns the value of a field; false when there is none.
func (o Object) Get(name string) (any, bool) {
	for _, f := range o {
		if f.Name == name {
			return f.Value, true
		}
	}
	return nil, false
}

// MarshalJSON writes the fields in order.
func (o Object) MarshalJSON() ([]byte, error) {
	b := []byte{'{'}
	for i, f := range o {
		if i > 0 {
			b = append(b, ',')
		}
		value, err := json.Marshal(f.Value)
		if err != nil {
			return nil, err
		}
		name, err := json.Marshal(f.Name)
		if err != nil {
			return nil, err
		}
		b = append(append(append(b, name...), ':'), value...)
	}
	return append(b, '}'), nil
}

// Variable is the content of events about EFI variables (PFP, UEFI_VARIABLE_DATA): VariableName (its GUID),
// UnicodeNameLength, VariableDataLength, UnicodeName and VariableData.
type Variable struct {
	Object
	raw []byte // the variable's data
}

// SignatureList is an EFI_SIGNATURE_LIST (UEFI specification, section 32.4.1).
type SignatureList struct {
	Type       GUID        `json:"SignatureType"`
	ListSize   uint32      `json:"SignatureListSize"`
	HeaderSize uint32      `json:"SignatureHeaderSize"`
	Size       uint32      `json:"SignatureSize"`
	Keys       []Signature `json:"Keys"`
}

// Get returns a field by the name that it has in JSON.
func (l SignatureList) Get(name string) (any, bool) {
	switch name {
	case "SignatureType":
		return l.Type, true
	case "SignatureListSize":
		return uint64(l.ListSize), true
	case "SignatureHeaderSize":
		return uint64(l.HeaderSize), true
	case "SignatureSize":
		return uint64(l.Size), true
	case "Keys":
		return l.Keys, true
	}
	return nil, false
}

// Signature is an EFI_SIGNATURE_DATA: a certificate or digest, and who put it there.
type Signature struct {
	Owner GUID `json:"SignatureOwner"`
	Data  Hex  `json:"SignatureData"`
}

// Get returns a field by the name that it has in JSON.
func (s Signature) Get(name string) (any, bool) {
	switch name {
	case "SignatureOwner":
		return s.Owner, true
	case "SignatureData":
		return s.Data, true
	}
	return nil, false
}

// content reads an event's data.
func content(e Event) (any, error) {
	if len(e.Data) == 0 || e.spec != nil {
		return nil, nil
	}
	switch e.Type {
	case VariableDriverConfig, VariableBoot, VariableBoot2, VariableAuthority:
		return variable(e)
	case BootApplication, BootDriver, RuntimeDriver:
		return image(e.Data)
	case SCRTMContents, FirmwareBlob:
		return blob(e.Data)
	case FirmwareBlob2:
		return blob2(e.Data)
	case PostCode:
		if len(e.Data) == 16 {
			return blob(e.Data)
		}
		return text(e.Data), nil
	case HCRTMEvent:
		if string(e.Data) != hcrtmText {
			return nil, fmt.Errorf("H-CRTM event with data other than %q", hcrtmText)
		}
		return hcrtmText, nil
	case EFIAction:
		return text(e.Data), nil
	case IPL:
		return Object{{"String", text(e.Data)}}, nil
	case GPTEvent:
		if table, err := partitions(e.Data); err == nil {
			return table, nil
		}
	case NoAction:
		if level, ok := e.startupLocality(); ok {
			return Object{{"StartupLocality", uint64(level)}}, nil
		}
	}
	return Hex(e.Data), nil
}

// text is data without one trailing NUL. What is not UTF-8 is replaced.
func text(b []byte) string {
	return strings.ToValidUTF8(string(bytes.TrimSuffix(b, []byte{0})), "\uFFFD")
}

// utf16Text decodes UTF-16 little-endian.
func utf16Text(b []byte) string {
	units := make([]uint16, len(b)/2)
	for i := range units {
		units[i] = binary.LittleEndian.Uint16(b[2*i:])
	}
	return string(utf16.Decode(units))
}

func variable(e Event) (*Variable, error) {
	r := reader{rest: e.Data}
	guid := r.guid("variable's GUID")
	nameLength, dataLength := r.u64("name length"), r.u64("data length")
	if r.err == nil && nameLength > uint64(len(r.rest))/2 {
		return nil, fmt.Errorf("variable's name of %d characters does not fit in the event", nameLength)
	}
	name := utf16Text(r.bytes(2*nameLength, "variable's name"))
	raw := r.bytes(dataLength, "variable's data")
	if r.err != nil {
		return nil, r.err
	}
	v := &Variable{raw: raw, Object: make(Object, 0, 5)}
	v.Object = append(v.Object, Field{"VariableName", guid}, Field{"UnicodeNameLength", nameLength},
		Field{"VariableDataLength", dataLength}, Field{"UnicodeName", name})
	data, present, err := variableData(e.Type, name, raw)
	if err != nil {
		return nil, fmt.Errorf("variable %.40q: %w", name, err)
	}
	if present {
		v.Object = append(v.Object, Field{"VariableData", data})
	}
	return v, nil
}

// variableData reads a variable by its name. Variables of unknown form have no data when it is empty.
func variableData(t EventType, name string, raw []byte) (data any, present bool, err error) {
	switch {
	case t == VariableDriverConfig && (name == "PK" || name == "KEK" || name == "db" || name == "dbx"):
		lists, err := signatureLists(raw)
		if lists == nil {
			return nil, true, err
		}
		return lists, true, err
	case t == VariableDriverConfig && name == "SecureBoot", t == VariableAuthority && name == "MokListTrusted":
		enabled, err := flag(raw)
		return enabled, true, err
	case len(raw) == 0:
		return nil, false, nil
	case t == VariableAuthority && name == "vendor_db":
		if list := certificates(raw); list != nil {
			return list, true, nil
		}
		fallthrough
	case t == VariableAuthority && (name == "db" || name == "Shim"):
		r := reader{rest: raw}
		owner := r.guid("signature's owner")
		return []Signature{{owner, Hex(r.rest)}}, true, r.err
	case t == VariableAuthority && name == "SbatLevel":
		return Object{{"String", text(raw)}}, true, nil
	case t == VariableBoot || t == VariableBoot2:
		return bootVariable(name, raw), true, nil
	}
	return Hex(raw), true, nil
}

func flag(raw []byte) (Object, error) {
	if len(raw) > 1 {
		return nil, fmt.Errorf("%d bytes, want one", len(raw))
	}
	if len(raw) == 1 && raw[0] != 0 {
		return Object{{"Enabled", "Yes"}}, nil
	}
	return Object{{"Enabled", "No"}}, nil
}

// signatureLists reads back-to-back EFI_SIGNATURE_LISTs; nil when there are none.
func signatureLists(raw []byte) ([]SignatureList, error) {
	var lists []SignatureList
	const header, owner = 28, 16
	for r := (reader{rest: raw}); len(r.rest) > 0; {
		l := SignatureList{Type: r.guid("signature type")}
		l.ListSize, l.HeaderSize, l.Size = r.u32("list size"), r.u32("header size"), r.u32("signature size")
		if r.err == nil && uint64(l.ListSize) < header+uint64(l.HeaderSize) {
			return nil, fmt.Errorf("signature list %d of %d bytes has no room for its header", len(lists), l.ListSize)
		}
		r.bytes(uint64(l.HeaderSize), "signature header")
		body := r.bytes(uint64(l.ListSize)-header-uint64(l.HeaderSize), "signatures")
		if r.err != nil {
			return nil, fmt.Errorf("signature list %d: %w", len(lists), r.err)
		}
		if l.Size < owner || len(body)%int(l.Size) != 0 {
			return nil, fmt.Errorf("signature list %d: %d bytes are not signatures of %d bytes", len(lists), len(body), l.Size)
		}
		l.Keys = make([]Signature, 0, len(body)/int(l.Size))
		for ; len(body) > 0; body = body[l.Size:] {
			l.Keys = append(l.Keys, Signature{GUID(body[:owner]), Hex(body[owner:l.Size:l.Size])})
		}
		lists = append(lists, l)
	}
	return lists, nil
}

// certificates reads what shim measures of its vendor_db: an owner and a certificate, several times, perhaps with
// other fields in between. It is nil for data of another form.
func certificates(raw []byte) []Signature {
	const owner, maxGap, headerLength = 16, 100, 4
	var list []Signature
	for offset := 0; offset+owner < len(raw); {
		area := raw[offset+owner : min(offset+owner+maxGap+2, len(raw))]
		start := bytes.Index(area, []byte{0x30, 0x82}) // SEQUENCE, length in two bytes
		if start < 0 || len(raw)-offset-owner < start+headerLength {
			break
		}
		start += offset + owner
		end := start + headerLength + int(binary.BigEndian.Uint16(raw[start+2:]))
		if end > len(raw) {
			break
		}
		list = append(list, Signature{GUID(raw[offset : offset+owner]), Hex(raw[offset+owner : end : end])})
		offset = end
	}
	return list
}

// bootVariable reads BootOrder and Boot####. What does not fit stays hex: no rule relies on it.
func bootVariable(name string, raw []byte) any {
	if name == "BootOrder" && len(raw)%2 == 0 {
		order := make([]string, 0, len(raw)/2)
		for i := 0; i < len(raw); i += 2 {
			order = append(order, fmt.Sprintf("Boot%04x", binary.LittleEndian.Uint16(raw[i:])))
		}
		return order
	}
	if _, err := hex.DecodeString(strings.TrimPrefix(name, "Boot")); err != nil || len(name) != 8 || name[:4] != "Boot" {
		return Hex(raw)
	}
	r := reader{rest: raw}
	attributes, pathLength := r.u32("attributes"), r.u16("path length")
	end := 0
	for end+1 < len(r.rest) && (r.rest[end] != 0 || r.rest[end+1] != 0) {
		end += 2
	}
	description := utf16Text(r.bytes(uint64(end), "description"))
	r.u16("end of the description")
	path := r.bytes(uint64(pathLength), "device path")
	if r.err != nil {
		return Hex(raw)
	}
	enabled := "No"
	if attributes&1 != 0 {
		enabled = "Yes"
	}
	return Object{{"Enabled", enabled}, {"FilePathListLength", uint64(pathLength)}, {"Description", description}, {"DevicePath", devicePath(path)}}
}

func image(data []byte) (Object, error) {
	r := reader{rest: data}
	location, length, linkTime, pathLength := r.u64("image location"), r.u64("image length"), r.u64("link-time address"), r.u64("path length")
	path := r.bytes(pathLength, "device path")
	if r.err != nil {
		return nil, r.err
	}
	return Object{{"ImageLocationInMemory", location}, {"ImageLengthInMemory", length}, {"ImageLinkTimeAddress", linkTime},
		{"LengthOfDevicePath", pathLength}, {"DevicePath", devicePath(path)}}, nil
}

func blob(data []byte) (Object, error) {
	r := reader{rest: data}
	o := Object{{"BlobBase", r.u64("blob base")}, {"BlobLength", r.u64("blob length")}}
	return o, r.err
}

func blob2(data []byte) (Object, error) {
	r := reader{rest: data}
	size := r.u8("description size")
	o := Object{{"BlobDescriptionSize", uint64(size)}, {"BlobDescription", Hex(r.bytes(uint64(size), "description"))}}
	o = append(o, Field{"BlobBase", r.u64("blob base")}, Field{"BlobLength", r.u64("blob length")})
	return o, r.err
}

// partitions reads UEFI_GPT_DATA: the header (UEFI specification, table 5-5) and the entries in use.
func partitions(data []byte) (Object, error) {
	r := reader{rest: data}
	header := Object{{"Signature", string(r.bytes(8, "signature"))}, {"Revision", uint64(r.u32("revision"))},
		{"HeaderSize", uint64(r.u32("header size"))}, {"HeaderCRC32", uint64(r.u32("CRC"))}}
	r.u32("reserved")
	header = append(header, Field{"MyLBA", r.u64("LBA")}, Field{"AlternateLBA", r.u64("LBA")}, Field{"FirstUsableLBA", r.u64("LBA")},
		Field{"LastUsableLBA", r.u64("LBA")}, Field{"DiskGUID", r.guid("disk GUID")}, Field{"PartitionEntryLBA", r.u64("LBA")},
		Field{"NumberOfPartitionEntries", uint64(r.u32("entry count"))})
	size := r.u32("entry size")
	header = append(header, Field{"SizeOfPartitionEntry", uint64(size)}, Field{"PartitionEntryArrayCRC32", uint64(r.u32("CRC"))})
	count := r.u64("partition count")
	if r.err != nil || count > maxPartitions || size < 128 {
		return nil, fmt.Errorf("GPT of %d partitions of %d bytes", count, size)
	}
	list := make([]Object, 0, count)
	for range count {
		p := reader{rest: r.bytes(uint64(size), "partition entry")}
		list = append(list, Object{{"PartitionTypeGUID", p.guid("type")}, {"UniquePartitionGUID", p.guid("GUID")},
			{"StartingLBA", p.u64("LBA")}, {"EndingLBA", p.u64("LBA")}, {"Attributes", p.u64("attributes")},
			{"PartitionName", strings.TrimRight(utf16Text(p.bytes(72, "name")), "\x00")}})
	}
	return Object{{"Header", header}, {"NumberOfPartitions", count}, {"Partitions", list}}, r.err
}

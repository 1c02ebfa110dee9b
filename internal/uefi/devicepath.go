package uefi

import (
	"encoding/binary"
	"fmt"
	"strings"
)

// devicePath writes an EFI_DEVICE_PATH_PROTOCOL (UEFI specification, chapter 10) as text: nodes joined by "/", those of
// kinds that do not matter here as Path(type,subtype,hex). A path that does not parse is its bytes in hex.
func devicePath(raw []byte) string {
	var nodes []string
	for rest := raw; len(rest) > 0; {
		if len(rest) < 4 || len(nodes) == maxPathNodes {
			return Hex(raw).String()
		}
		length := int(binary.LittleEndian.Uint16(rest[2:]))
		if length < 4 || length > len(rest) {
			return Hex(raw).String()
		}
		if kind := rest[0]; kind == endOfPath {
			break
		}
		nodes = append(nodes, pathNode(rest[0], rest[1], rest[4:length]))
		rest = rest[length:]
	}
	return strings.Join(nodes, "/")
}

// Types of device path nodes.
const (
	hardwarePath = 1
	acpiPath     = 2
	messagePath  = 3
	mediaPath    = 4
	endOfPath    = 0x7F
)

func pathNode(kind, sub byte, data []byte) string {
	var node string
	var ok bool
	switch kind {
	case hardwarePath:
		node, ok = hardwareNode(sub, data)
	case acpiPath:
		node, ok = acpiNode(sub, data)
	case messagePath:
		node, ok = messageNode(sub, data)
	case mediaPath:
		node, ok = mediaNode(sub, data)
	}
	if !ok {
		return fmt.Sprintf("Path(%d,%d,%x)", kind, sub, data)
	}
	return node
}

func hardwareNode(sub byte, data []byte) (string, bool) {
	r := reader{rest: data}
	var node string
	switch sub {
	case 1:
		function, device := r.u8("function"), r.u8("device")
		node = fmt.Sprintf("Pci(0x%x,0x%x)", device, function)
	case 3:
		kind, start, end := r.u32("memory type"), r.u64("start"), r.u64("end")
		node = fmt.Sprintf("MemoryMapped(0x%x,0x%x,0x%x)", kind, start, end)
	case 4:
		node = fmt.Sprintf("VenHw(%v%s)", r.guid("vendor"), optionalHex(r.rest))
	case 5:
		node = fmt.Sprintf("Ctrl(0x%x)", r.u32("controller"))
	}
	return node, node != "" && r.err == nil
}

func acpiNode(sub byte, data []byte) (string, bool) {
	const pciRoot, pcieRoot = 0x0A0341D0, 0x0A0841D0 // EISA identifiers PNP0A03 and PNP0A08
	if sub != 1 {
		return "", false
	}
	r := reader{rest: data}
	switch hid, uid := r.u32("HID"), r.u32("UID"); hid {
	case pciRoot:
		return fmt.Sprintf("PciRoot(0x%x)", uid), r.err == nil
	case pcieRoot:
		return fmt.Sprintf("PcieRoot(0x%x)", uid), r.err == nil
	default:
		return fmt.Sprintf("Acpi(0x%08x,0x%x)", hid, uid), r.err == nil
	}
}

func messageNode(sub byte, data []byte) (string, bool) {
	r := reader{rest: data}
	var node string
	switch sub {
	case 1:
		primary, slave, lun := r.u8("controller"), r.u8("drive"), r.u16("LUN")
		node = fmt.Sprintf("Ata(%d,%d,%d)", primary, slave, lun)
	case 2:
		pun, lun := r.u16("PUN"), r.u16("LUN")
		node = fmt.Sprintf("Scsi(0x%x,0x%x)", pun, lun)
	case 5:
		port, iface := r.u8("port"), r.u8("interface")
		node = fmt.Sprintf("USB(0x%x,0x%x)", port, iface)
	case 10:
		node = fmt.Sprintf("VenMsg(%v%s)", r.guid("vendor"), optionalHex(r.rest))
	case 11:
		node = fmt.Sprintf("MAC(%x)", r.bytes(6, "address"))
	case 18:
		port, multiplier, lun := r.u16("port"), r.u16("port multiplier"), r.u16("LUN")
		node = fmt.Sprintf("Sata(0x%x,0x%x,0x%x)", port, multiplier, lun)
	case 23:
		id := r.u32("namespace")
		eui := r.bytes(8, "EUI-64")
		node = fmt.Sprintf("NVMe(0x%x,%s)", id, dashed(eui))
	case 24:
		node = fmt.Sprintf("Uri(%s)", text(r.rest))
	}
	return node, node != "" && r.err == nil
}

func mediaNode(sub byte, data []byte) (string, bool) {
	r := reader{rest: data}
	var node string
	switch sub {
	case 1:
		node = hardDrive(&r)
	case 2:
		entry, start, size := r.u32("boot entry"), r.u64("start"), r.u64("size")
		node = fmt.Sprintf("CDROM(%d,0x%x,0x%x)", entry, start, size)
	case 3:
		node = fmt.Sprintf("VenMedia(%v%s)", r.guid("vendor"), optionalHex(r.rest))
	case 4:
		node = fmt.Sprintf("File(%s)", strings.TrimRight(utf16Text(r.rest), "\x00"))
	case 5:
		node = fmt.Sprintf("Media(%v)", r.guid("protocol"))
	case 6:
		node = fmt.Sprintf("FvFile(%v)", r.guid("file"))
	case 7:
		node = fmt.Sprintf("FvVol(%v)", r.guid("volume"))
	case 8:
		r.u32("reserved")
		start, end := r.u64("start"), r.u64("end")
		node = fmt.Sprintf("Offset(0x%x,0x%x)", start, end)
	}
	return node, node != "" && r.err == nil
}

// hardDrive writes a partition by its number and signature.
func hardDrive(r *reader) string {
	number, start, size := r.u32("partition"), r.u64("start"), r.u64("size")
	signature := r.guid("signature")
	r.u8("format")
	switch kind := r.u8("signature type"); kind {
	case 1:
		return fmt.Sprintf("HD(%d,MBR,0x%x,0x%x,0x%x)", number, binary.LittleEndian.Uint32(signature[:]), start, size)
	case 2:
		return fmt.Sprintf("HD(%d,GPT,%v,0x%x,0x%x)", number, signature, start, size)
	default:
		return fmt.Sprintf("HD(%d,%d,%v,0x%x,0x%x)", number, kind, Hex(signature[:]), start, size)
	}
}

func optionalHex(b []byte) string {
	if len(b) == 0 {
		return ""
	}
	return "," + Hex(b).String()
}

func dashed(b []byte) string {
	parts := make([]string, len(b))
	for i, c := range b {
		parts[i] = fmt.Sprintf("%02x", c)
	}
	return strings.Join(parts, "-")
}

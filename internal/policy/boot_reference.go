package policy

import (
	"encoding/json"
	"errors"
	"regexp"
	"strings"

	"keylime/internal/uefi"
	"keylime/tpm"
)

// ErrSecureBootOff is returned by BootReference for a boot that had secure boot off, or does not tell.
var ErrSecureBootOff = errors.New("the event log has secure boot disabled")

// BootReference makes the reference state of a boot, JSON for the engines BootExample and BootExampleRelaxed, from a
// log with SHA-256 digests. A boot without secure boot is ErrSecureBootOff unless allowed. What the log does not hold of
// kernel and boot loader is an error: a reference state that accepts no boot is none.
func BootReference(p uefi.Proven, o BootReferenceOptions) ([]byte, error) {
	m := referenceMaker{}
	for f := range p.Events() {
		m.event(f)
	}
	if !m.secureBoot && !o.WithoutSecureBoot {
		return nil, ErrSecureBootOff
	}
	kernel, err := m.kernel()
	if err != nil {
		return nil, err
	}
	reference := uefi.Object{
		{Name: "has_secureboot", Value: m.secureBoot},
		{Name: "scrtm_and_bios", Value: []any{uefi.Object{
			{Name: "scrtm", Value: m.scrtm}, {Name: "platform_firmware", Value: nonNilList(m.blobs)}}}},
		{Name: "pk", Value: nonNilList(m.keys["PK"])},
		{Name: "kek", Value: nonNilList(m.keys["KEK"])},
		{Name: "db", Value: nonNilList(m.keys["db"])},
		{Name: "dbx", Value: nonNilList(m.keys["dbx"])},
		{Name: "vendor_db", Value: nonNilList(m.vendor)},
		{Name: "mokdig", Value: nonNilList(m.mok)},
		{Name: "mokxdig", Value: nonNilList(m.mokx)},
		{Name: "kernels", Value: []any{kernel}},
	}
	if o.FirmwarePrograms && len(m.firmware) > 0 {
		reference = append(reference, uefi.Field{Name: "firmware_programs", Value: m.firmware})
	}
	return json.Marshal(reference)
}

// BootReferenceOptions are what the maker of a reference state decides.
type BootReferenceOptions struct {
	WithoutSecureBoot bool // a boot with secure boot off is fine
	// FirmwarePrograms lists the programs in the firmware itself, such as its setup, which BootExampleRelaxed lets run
	// before the boot loader. Keylime's own reference states do not have the field.
	FirmwarePrograms bool
}

func nonNilList(list []any) []any {
	if list == nil {
		return []any{}
	}
	return list
}

// referenceMaker collects what a reference state is made of.
type referenceMaker struct {
	secureBoot, knowsSecureBoot bool
	scrtm                       uefi.Object
	blobs, vendor, mok, mokx    []any
	firmware                    []any            // programs in the firmware
	keys                        map[string][]any // by variable
	programs                    []string
	initrd, vmlinuz             string
	commandLine                 *string
}

// firmwarePath begins the device paths of programs that lie in the firmware itself.
var firmwarePath = regexp.MustCompile(`^FvVol\(\w{8}-\w{4}-\w{4}-\w{4}-\w{12}\)/FvFile\(\w{8}-\w{4}-\w{4}-\w{4}-\w{12}\)`)

func (m *referenceMaker) event(f uefi.Fact) {
	hexDigest := sha256Of(f)
	digest := uefi.Object{{Name: "sha256", Value: hexDigest}}
	content, err := f.Content()
	if err != nil {
		content = nil // what its digest does not prove is not made a reference
	}
	switch f.Type() {
	case uefi.SCRTMVersion:
		if m.scrtm == nil {
			m.scrtm = digest
		}
	case uefi.FirmwareBlob, uefi.FirmwareBlob2:
		m.blobs = append(m.blobs, digest)
	case uefi.BootApplication:
		image, _ := content.(uefi.Object)
		path, _ := image.Get("DevicePath")
		if text, _ := path.(string); firmwarePath.MatchString(text) {
			m.firmware = append(m.firmware, digest)
		} else {
			m.programs = append(m.programs, hexDigest)
		}
	case uefi.VariableDriverConfig, uefi.VariableAuthority:
		if v, ok := content.(*uefi.Variable); ok {
			m.variable(f.Type(), v)
		}
	case uefi.IPL:
		label, _ := content.(uefi.Object)
		text, _ := label.Get("String")
		if s, ok := text.(string); ok {
			m.ipl(f.PCR(), s, digest, hexDigest)
		}
	}
}

func sha256Of(f uefi.Fact) string {
	if d := f.Digest(); d.Alg == tpm.SHA256 {
		return "0x" + d.Value.String()
	}
	return ""
}

func (m *referenceMaker) variable(kind uefi.EventType, v *uefi.Variable) {
	named, _ := v.Get("UnicodeName")
	name, _ := named.(string)
	data, _ := v.Get("VariableData")
	switch content := data.(type) {
	case uefi.Object:
		if enabled, ok := content.Get("Enabled"); ok && name == "SecureBoot" && !m.knowsSecureBoot {
			m.secureBoot, m.knowsSecureBoot = enabled == "Yes", true
		}
	case []uefi.SignatureList:
		if m.keys == nil {
			m.keys = map[string][]any{}
		}
		m.keys[name] = nil
		for _, l := range content {
			m.keys[name] = append(m.keys[name], signatureObjects(l.Keys)...)
		}
	case []uefi.Signature:
		if kind == uefi.VariableAuthority && name == "vendor_db" {
			m.vendor = append(m.vendor, signatureObjects(content)...)
		}
	}
}

func signatureObjects(list []uefi.Signature) []any {
	out := make([]any, len(list))
	for i, s := range list {
		out[i] = uefi.Object{{Name: "SignatureOwner", Value: s.Owner}, {Name: "SignatureData", Value: "0x" + s.Data.String()}}
	}
	return out
}

// ipl takes what shim (PCR 14) and GRUB (PCRs 8 and 9) measure.
func (m *referenceMaker) ipl(pcr int, text string, digest uefi.Object, hexDigest string) {
	const commandLine = "kernel_cmdline: "
	switch {
	case text == "MokList":
		m.mok = append(m.mok, digest)
	case text == "MokListX":
		m.mokx = append(m.mokx, digest)
	case pcr == 8 && m.commandLine == nil && strings.HasPrefix(text, commandLine):
		line := pythonEscape(strings.TrimPrefix(text, commandLine))
		m.commandLine = &line
	case pcr == 9 && m.initrd == "" && (strings.Contains(text, "initrd") || strings.Contains(text, "initramfs")):
		m.initrd = hexDigest
	case pcr == 9 && m.vmlinuz == "" && strings.Contains(text, "vmlinuz"):
		m.vmlinuz = hexDigest
	}
}

// kernel is the entry of this boot in "kernels".
func (m *referenceMaker) kernel() (uefi.Object, error) {
	n := len(m.programs)
	switch {
	case m.scrtm == nil:
		return nil, errors.New("the event log does not hold the firmware's version, EV_S_CRTM_VERSION")
	case m.secureBoot && n != 3 && n != 4, !m.secureBoot && n != 2:
		return nil, errors.New("the event log does not tell shim, GRUB and kernel: with secure boot three programs are started, without it two")
	case m.initrd == "" || m.commandLine == nil || !m.secureBoot && m.vmlinuz == "":
		return nil, errors.New("the event log does not hold the kernel's command line, its ramdisk or, without secure boot, its file; GRUB measures them in PCRs 8 and 9")
	}
	kernel := uefi.Object{}
	if m.secureBoot {
		kernel = append(kernel, uefi.Field{Name: "kernel_authcode_sha256", Value: m.programs[2]})
	}
	kernel = append(kernel, uefi.Field{Name: "shim_authcode_sha256", Value: m.programs[0]},
		uefi.Field{Name: "grub_authcode_sha256", Value: m.programs[1]}, uefi.Field{Name: "initrd_plain_sha256", Value: m.initrd})
	if !m.secureBoot {
		kernel = append(kernel, uefi.Field{Name: "vmlinuz_plain_sha256", Value: m.vmlinuz})
	}
	return append(kernel, uefi.Field{Name: "kernel_cmdline", Value: *m.commandLine}), nil
}

// pythonEscape makes the pattern of a text as Python's re.escape does, so that reference states are the same whoever
// makes them.
func pythonEscape(s string) string {
	var b strings.Builder
	for _, c := range s {
		if strings.ContainsRune("()[]{}?*+-|^$\\.&~# \t\n\r\v\f", c) {
			b.WriteByte('\\')
		}
		b.WriteRune(c)
	}
	return b.String()
}

package fleet

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"slices"

	"keylime/internal/uefi"
	"keylime/tpm"
)

// BootChain is what a machine boots with secure boot: firmware, shim, GRUB, a kernel and its ramdisk. Texts stand for the
// images. What differs from a chain's reference state is told by its log.
type BootChain struct {
	Firmware, Shim, Grub, Kernel, Initrd string
	CommandLine                          string
	SecureBootOff                        bool // the variable says so; the chain is measured all the same
	Forbidden                            []string
}

// NewBootChain is a chain of one release.
func NewBootChain(release string) BootChain {
	return BootChain{
		Firmware: "firmware " + release, Shim: "shim " + release, Grub: "grub " + release, Kernel: "kernel " + release,
		Initrd: "initrd " + release, CommandLine: "/vmlinuz-" + release + " root=/dev/vda1 ro",
		Forbidden: []string{"bootkit", "old shim"},
	}
}

// The namespaces of EFI variables that a boot measures, and the kinds of their signatures.
var (
	efiGlobal   = guid("8be4df61-93ca-11d2-aa0d-00e098032b8c")
	efiSecurity = guid("d719b2cb-3d3a-4596-a3bc-dad00e67656f")
	efiShim     = guid("605dab50-e046-4300-abb6-3dd810dd8b23")
	kindX509    = guid("a5c059a1-94e4-4aa7-87b5-ab155c2bf072")
	kindSHA256  = guid("c1c41626-504c-4092-aca9-41f936934328")
	keyOwner    = guid("77fa9abd-0359-4d32-bd60-28f4e78f784b")
)

func guid(s string) uefi.GUID {
	g, err := uefi.ParseGUID(s)
	if err != nil {
		panic("fleet: " + err.Error()) // a constant of this file
	}
	return g
}

var firmwareVersion = []byte("0\x00.\x009\x00\x00\x00")

// Log is what the boot is measured as.
func (c BootChain) Log(banks ...tpm.Hash) *BootLog {
	l := NewBootLog(banks...)
	l.Event(0, uefi.SCRTMVersion, firmwareVersion, firmwareVersion)
	blob := make([]byte, 16)
	l.Event(0, uefi.FirmwareBlob, blob, []byte(c.Firmware))
	enabled := []byte{1}
	if c.SecureBootOff {
		enabled[0] = 0
	}
	l.variable(efiGlobal, "SecureBoot", enabled)
	l.variable(efiGlobal, "PK", SignatureList(kindX509, keyOwner, []byte("platform key")))
	l.variable(efiGlobal, "KEK", SignatureList(kindX509, keyOwner, []byte("key exchange key")))
	l.variable(efiSecurity, "db", SignatureList(kindX509, keyOwner, []byte("vendor's certificate")))
	l.variable(efiSecurity, "dbx", SignatureList(kindSHA256, keyOwner, c.forbidden()...))
	for pcr := range 8 {
		l.Event(pcr, uefi.Separator, make([]byte, 4), make([]byte, 4))
	}
	order := Variable(efiGlobal, "BootOrder", []byte{0, 0})
	l.Event(1, uefi.VariableBoot, order, []byte{0, 0})
	calling := []byte("Calling EFI Application from Boot Option")
	l.Event(4, uefi.EFIAction, calling, calling)
	authority := Variable(efiSecurity, "db", append(keyOwner[:], "vendor's certificate"...))
	l.Event(7, uefi.VariableAuthority, authority, authority)
	l.image(c.Shim)
	mok := []byte("MokList\x00")
	l.Event(14, uefi.IPL, mok, []byte("machine owner keys"))
	level := Variable(efiShim, "SbatLevel", []byte("sbat,1,2021030218\n"))
	l.Event(7, uefi.VariableAuthority, level, level)
	l.image(c.Grub)
	l.Event(9, uefi.IPL, []byte("(hd0,gpt2)/grub2/grub.cfg\x00"), []byte("menu"))
	l.command("grub_cmd: ", "set root=hd0,gpt2")
	l.Event(9, uefi.IPL, []byte("(hd0,gpt2)/vmlinuz\x00"), []byte(c.Kernel+" file"))
	l.image(c.Kernel)
	l.command("kernel_cmdline: ", c.CommandLine)
	l.Event(9, uefi.IPL, []byte("(hd0,gpt2)/initramfs.img\x00"), []byte(c.Initrd))
	leaving := []byte("Exit Boot Services Invocation")
	l.Event(5, uefi.EFIAction, leaving, leaving)
	return l
}

func (c BootChain) forbidden() [][]byte {
	var list [][]byte
	for _, name := range c.Forbidden {
		sum := sha256.Sum256([]byte(name))
		list = append(list, sum[:])
	}
	return list
}

// variable measures a variable of the secure boot configuration.
func (l *BootLog) variable(vendor uefi.GUID, name string, data []byte) {
	v := Variable(vendor, name, data)
	l.Event(7, uefi.VariableDriverConfig, v, v)
}

// image measures a program. Its place in memory and its path are not measured.
func (l *BootLog) image(text string) {
	l.Event(4, uefi.BootApplication, make([]byte, 32), []byte(text))
}

// command measures what GRUB executes: the text without its label.
func (l *BootLog) command(label, text string) {
	l.Event(8, uefi.IPL, slices.Concat([]byte(label), []byte(text), []byte{0}), []byte(text))
}

// Reference is the chain's reference state, as of Keylime's policy "example".
func (c BootChain) Reference() string {
	hexOf := func(text string) string {
		sum := sha256.Sum256([]byte(text))
		return "0x" + hex.EncodeToString(sum[:])
	}
	digest := func(text string) map[string]string { return map[string]string{"sha256": hexOf(text)} }
	key := func(data []byte) map[string]string {
		return map[string]string{"SignatureOwner": keyOwner.String(), "SignatureData": "0x" + hex.EncodeToString(data)}
	}
	forbidden := []any{}
	for _, sum := range c.forbidden() {
		forbidden = append(forbidden, key(sum))
	}
	text, err := json.Marshal(map[string]any{
		"has_secureboot": true,
		"scrtm_and_bios": []any{map[string]any{"scrtm": digest(string(firmwareVersion)), "platform_firmware": []any{digest(c.Firmware)}}},
		"pk":             []any{key([]byte("platform key"))},
		"kek":            []any{key([]byte("key exchange key"))},
		"db":             []any{key([]byte("vendor's certificate"))},
		"dbx":            forbidden,
		"mokdig":         []any{digest("machine owner keys")},
		"mokxdig":        []any{},
		"kernels": []any{map[string]string{
			"shim_authcode_sha256": hexOf(c.Shim), "grub_authcode_sha256": hexOf(c.Grub), "kernel_authcode_sha256": hexOf(c.Kernel),
			"initrd_plain_sha256": hexOf(c.Initrd), "kernel_cmdline": c.CommandLine,
		}},
	})
	if err != nil {
		panic("fleet: reference state cannot be encoded: " + err.Error()) // strings, lists and maps can
	}
	return string(text)
}

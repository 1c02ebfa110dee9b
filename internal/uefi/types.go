package uefi

// EventType is the type of an event (PFP, table "Events"). No digest covers it.
type EventType uint32

// The event types whose data is looked into.
const (
	NoAction              EventType = 0x3
	Separator             EventType = 0x4
	SCRTMContents         EventType = 0x7
	SCRTMVersion          EventType = 0x8
	PostCode              EventType = 0x1
	IPL                   EventType = 0xD
	VariableDriverConfig  EventType = 0x80000001
	VariableBoot          EventType = 0x80000002
	BootApplication       EventType = 0x80000003
	BootDriver            EventType = 0x80000004
	RuntimeDriver         EventType = 0x80000005
	GPTEvent              EventType = 0x80000006
	EFIAction             EventType = 0x80000007
	FirmwareBlob          EventType = 0x80000008
	FirmwareBlob2         EventType = 0x8000000A
	VariableBoot2         EventType = 0x8000000C
	HCRTMEvent            EventType = 0x80000010
	VariableAuthority     EventType = 0x800000E0
	unknownEventType                = "Unknown event type"
	localitySignature               = "StartupLocality\x00"
	specIDSignature                 = "Spec ID Event03\x00"
	hcrtmText                       = "HCRTM"
	lastStandardEventType EventType = 0x12
)

// String is the TCG's name; "Unknown event type" for one that it does not define.
func (t EventType) String() string {
	if t <= lastStandardEventType {
		return standardEventTypes[t]
	}
	if name, ok := efiEventTypes[t]; ok {
		return name
	}
	return unknownEventType
}

// EventTypes lists the names of all types that the TCG defines.
func EventTypes() []string {
	names := append([]string(nil), standardEventTypes[:]...)
	for _, name := range efiEventTypes {
		names = append(names, name)
	}
	return names
}

var standardEventTypes = [lastStandardEventType + 1]string{
	"EV_PREBOOT_CERT", "EV_POST_CODE", "EV_UNUSED", "EV_NO_ACTION", "EV_SEPARATOR", "EV_ACTION", "EV_EVENT_TAG",
	"EV_S_CRTM_CONTENTS", "EV_S_CRTM_VERSION", "EV_CPU_MICROCODE", "EV_PLATFORM_CONFIG_FLAGS", "EV_TABLE_OF_DEVICES",
	"EV_COMPACT_HASH", "EV_IPL", "EV_IPL_PARTITION_DATA", "EV_NONHOST_CODE", "EV_NONHOST_CONFIG", "EV_NONHOST_INFO",
	"EV_OMIT_BOOT_DEVICE_EVENTS",
}

var efiEventTypes = map[EventType]string{
	VariableDriverConfig: "EV_EFI_VARIABLE_DRIVER_CONFIG",
	VariableBoot:         "EV_EFI_VARIABLE_BOOT",
	BootApplication:      "EV_EFI_BOOT_SERVICES_APPLICATION",
	BootDriver:           "EV_EFI_BOOT_SERVICES_DRIVER",
	RuntimeDriver:        "EV_EFI_RUNTIME_SERVICES_DRIVER",
	GPTEvent:             "EV_EFI_GPT_EVENT",
	EFIAction:            "EV_EFI_ACTION",
	FirmwareBlob:         "EV_EFI_PLATFORM_FIRMWARE_BLOB",
	0x80000009:           "EV_EFI_HANDOFF_TABLES",
	FirmwareBlob2:        "EV_EFI_PLATFORM_FIRMWARE_BLOB2",
	0x8000000B:           "EV_EFI_HANDOFF_TABLES2",
	VariableBoot2:        "EV_EFI_VARIABLE_BOOT2",
	HCRTMEvent:           "EV_EFI_HCRTM_EVENT",
	VariableAuthority:    "EV_EFI_VARIABLE_AUTHORITY",
}

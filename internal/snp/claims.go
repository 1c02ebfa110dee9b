package snp

import "encoding/binary"

// Claims are what a verified report says, as the Keylime REST API shows it. Bytes are lists of numbers.
type Claims struct {
	Measurement  Bytes `json:"measurement"` // SHA-384 of the guest's memory at launch
	ReportData   Bytes `json:"report_data"`
	HostData     Bytes `json:"host_data"` // what the host gave at launch; nobody vouches for it
	PlatformSMT  bool  `json:"platform_smt_enabled"`
	PlatformTSME bool  `json:"platform_tsme_enabled"`

	TCBBootloader uint8 `json:"reported_tcb_bootloader"`
	TCBTEE        uint8 `json:"reported_tcb_tee"`
	TCBSNP        uint8 `json:"reported_tcb_snp"`
	TCBMicrocode  uint8 `json:"reported_tcb_microcode"`

	PolicyABIMajor     uint8 `json:"policy_abi_major"`
	PolicyABIMinor     uint8 `json:"policy_abi_minor"`
	PolicySMT          bool  `json:"policy_smt_allowed"`
	PolicyMigrateMA    bool  `json:"policy_migrate_ma"`
	PolicyDebug        bool  `json:"policy_debug_allowed"` // the host may read the guest's memory
	PolicySingleSocket bool  `json:"policy_single_socket"`
}

// Bytes is encoded as a list of numbers.
type Bytes []byte

// MarshalJSON writes the list.
func (b Bytes) MarshalJSON() ([]byte, error) {
	text := append(make([]byte, 0, 2+4*len(b)), '[')
	for i, c := range b {
		if i > 0 {
			text = append(text, ',')
		}
		text = appendDecimal(text, c)
	}
	return append(text, ']'), nil
}

func appendDecimal(text []byte, c byte) []byte {
	if c >= 10 {
		text = appendDecimal(text, c/10)
	}
	return append(text, '0'+c%10)
}

// claims reads a report that is believed. How its TCB is laid out depends on the product.
func (r Report) claims(p Product) Claims {
	policy := binary.LittleEndian.Uint64(r.raw[atPolicy:])
	platform := r.raw[atPlatform]
	tcb := p.splitTCB(r.reportedTCB())
	return Claims{
		Measurement:        r.raw[atMeasurement:atHostData],
		ReportData:         r.raw[atReportData:atMeasurement],
		HostData:           r.raw[atHostData : atHostData+32],
		PlatformSMT:        platform&1 != 0,
		PlatformTSME:       platform&2 != 0,
		TCBBootloader:      tcb.bootloader,
		TCBTEE:             tcb.tee,
		TCBSNP:             tcb.snp,
		TCBMicrocode:       tcb.microcode,
		PolicyABIMinor:     uint8(policy),
		PolicyABIMajor:     uint8(policy >> 8),
		PolicySMT:          policy&(1<<16) != 0,
		PolicyMigrateMA:    policy&(1<<18) != 0,
		PolicyDebug:        policy&(1<<19) != 0,
		PolicySingleSocket: policy&(1<<20) != 0,
	}
}

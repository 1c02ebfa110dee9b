package agent

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strconv"
	"strings"

	"keylime/internal/config"
	"keylime/tpm/device"
)

// The kernel's devices: the one with the resource manager is for everybody, the other for one program at a time.
const (
	managedTPM = "/dev/tpmrm0"
	bareTPM    = "/dev/tpm0"
)

// findTPM names the TPM to open: the one asked for, or the kernel's.
func findTPM(tcti string) string {
	if tcti != "" {
		return tcti
	}
	if _, err := os.Stat(managedTPM); errors.Is(err, fs.ErrNotExist) {
		if _, err := os.Stat(bareTPM); err == nil {
			return "device:" + bareTPM
		}
	}
	return "device:" + managedTPM
}

// ekOptions are the options of the endorsement key.
func ekOptions(cfg config.Agent) (device.EKOptions, error) {
	options := device.EKOptions{Alg: cfg.TPMEncryptionAlg}
	if handle := cfg.EKHandle; handle != "" {
		number, err := strconv.ParseUint(strings.TrimPrefix(handle, "0x"), 16, 32)
		if err != nil {
			return options, fmt.Errorf("ek_handle %q: want hex digits, such as 0x81010001", handle)
		}
		options.Handle = uint32(number)
	}
	var err error
	options.Password, err = cfg.EndorsementAuth()
	return options, err
}

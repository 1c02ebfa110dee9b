package policytool

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/rs/zerolog"

	"keylime/internal/policy"
	"keylime/internal/python"
	"keylime/internal/uefi"
	"keylime/tpm"
)

// bootRequest is what `create measured-boot` is asked for.
type bootRequest struct {
	log, output string
	options     policy.BootReferenceOptions
}

func bootCommand() command {
	return command{
		path:  "create measured-boot",
		brief: "make a measured-boot policy from an event log",
		about: "Makes a reference state, the data that the engines example and example-relaxed compare boots with, from the event log\n" +
			"of a boot that is as it should be. The log is on the machine, in " + eventLog + ".\n" +
			"It is taken at its word: take it from a machine that was attested, or that you trust.",
		examples: []string{
			"keylime policy create measured-boot -e " + eventLog + " -o boot.json",
			"keylime policy create measured-boot -e eventlog.bin -i -o boot.json",
		},
		prepare: func(stdout io.Writer, screen *screen) call {
			r := &bootRequest{}
			return call{required: []string{"eventlog-file"}, options: []option{
				{"eventlog-file", "e", "FILE", "", "read the binary event log in `FILE`", text(&r.log)},
				{"without-secureboot", "i", "", "", "accept a boot with secure boot off", on(&r.options.WithoutSecureBoot)},
				{"firmware-programs", "", "", "", "list the programs in the firmware itself too, for the engine example-relaxed", on(&r.options.FirmwarePrograms)},
				{"output", "o", "FILE", "", "write to `FILE`, not to standard output", text(&r.output)},
			}, run: func(context.Context) error { return r.run(stdout, logger(screen, false)) }}
		},
	}
}

const eventLog = "/sys/kernel/security/tpm0/binary_bios_measurements"

func (r *bootRequest) run(stdout io.Writer, log zerolog.Logger) error {
	reference, err := r.reference()
	switch {
	case errors.Is(err, policy.ErrSecureBootOff):
		return fmt.Errorf("%s: %w, but -i flag was not set: set it if that is how the machine boots", r.log, err)
	case err != nil:
		return fmt.Errorf("%s: %w", r.log, err)
	}
	var made struct {
		SecureBoot bool `json:"has_secureboot"`
	}
	if err := json.Unmarshal(reference, &made); err != nil {
		return err
	}
	if made.SecureBoot && r.options.WithoutSecureBoot {
		log.Warn().Msg("-i/--without-secureboot is ignored: the event log has secure boot enabled")
	}
	rendered, err := python.JSON.Render(reference)
	if err != nil {
		return err
	}
	return writeOutput(r.output, stdout, writing([]byte(rendered)))
}

func (r *bootRequest) reference() ([]byte, error) {
	raw, err := os.ReadFile(r.log)
	if err != nil {
		return nil, err
	}
	parsed, err := uefi.Parse(raw)
	if err != nil {
		return nil, err
	}
	believed, err := uefi.Believe(parsed, tpm.SHA256)
	if err != nil {
		return nil, err
	}
	return policy.BootReference(believed, r.options)
}

package registrar

import (
	"errors"
	"net/netip"
	"regexp"
	"strings"
)

// maxHostName is the longest name that DNS knows.
const maxHostName = 253

var hostLabel = regexp.MustCompile(`^[A-Za-z0-9_]([A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?$`)

// contactIP checks the address where the agent says that it listens: an IP address or a host name. An address that
// names no single machine, or a machine's own link only, is refused: the verifier and the tenant will connect to
// it, and the metadata services of clouds are link-local. Loopback is for a machine that holds every role.
func contactIP(s string) (string, error) {
	if s == "" {
		return "", nil
	}
	ip, err := netip.ParseAddr(s)
	if err != nil {
		return s, checkHostName(s)
	}
	switch bare := ip.WithZone("").Unmap(); {
	case bare.IsLinkLocalUnicast():
		return "", errors.New("link-local addresses are refused")
	case bare.IsUnspecified(), bare.IsMulticast(), bare == netip.AddrFrom4([4]byte{255, 255, 255, 255}):
		return "", errors.New("an address that names no single machine is refused; set contact_ip of the agent")
	case ip.Zone() != "":
		return "", errors.New("an address with a zone has no meaning elsewhere")
	}
	return s, nil
}

// checkHostName holds a name to RFC 1123, underscores allowed. A last label of digits alone would make it an address
// with a mistake.
func checkHostName(s string) error {
	labels := strings.Split(strings.TrimSuffix(s, "."), ".")
	if len(s) > maxHostName || strings.Trim(labels[len(labels)-1], "0123456789") == "" {
		return errors.New("want an IP address or a host name")
	}
	for _, l := range labels {
		if !hostLabel.MatchString(l) {
			return errors.New("want an IP address or a host name")
		}
	}
	return nil
}

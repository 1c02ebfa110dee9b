package verifier

import (
	"errors"
	"net/netip"
	"testing"
)

// NT-47: where the verifier never connects.
func TestGuard(t *testing.T) {
	t.Parallel()
	anywhere := guard{own: netip.MustParseAddrPort("0.0.0.0:8881"), local: []netip.Addr{netip.MustParseAddr("192.0.2.1")}, loopback: true}
	one := guard{own: netip.MustParseAddrPort("192.0.2.1:8881"), loopback: true}
	fleet := guard{own: netip.MustParseAddrPort("192.0.2.1:8881")}
	for _, c := range []struct {
		g       guard
		address string
		allowed bool
	}{
		{anywhere, "192.0.2.9:9002", true},
		{anywhere, "127.0.0.1:9002", true},
		{anywhere, "[2001:db8::1]:9002", true},
		{anywhere, "192.0.2.9:8881", true}, // another machine's verifier port
		{anywhere, "127.0.0.1:8881", false},
		{anywhere, "127.9.9.9:8881", false},
		{anywhere, "[::1]:8881", false},
		{anywhere, "[::ffff:127.0.0.1]:8881", false},
		{anywhere, "192.0.2.1:8881", false},
		{one, "192.0.2.1:8881", false},
		{one, "127.0.0.1:8881", true}, // not bound there
		{fleet, "127.0.0.1:9002", false},
		{fleet, "[::ffff:127.0.0.1]:9002", false},
		{fleet, "[::1]:9002", false},
		{one, "169.254.169.254:80", false},
		{one, "[::ffff:169.254.169.254]:80", false},
		{one, "169.254.1.1:9002", false},
		{one, "[fe80::1%eth0]:9002", false},
		{one, "[fd00:ec2::254]:80", false},
		{one, "100.100.100.200:80", false},
		{one, "0.0.0.0:9002", false},
		{one, "[::]:9002", false},
		{one, "224.0.0.1:9002", false},
		{one, "255.255.255.255:9002", false},
		{one, "192.0.2.9:0", false},
	} {
		err := c.g.check(netip.MustParseAddrPort(c.address))
		if (err == nil) != c.allowed {
			t.Errorf("%s with the verifier at %s: %v, want allowed=%v", c.address, c.g.own, err, c.allowed)
		}
		if err != nil && !errors.Is(err, errAddress) {
			t.Errorf("%s: %v is not errAddress", c.address, err)
		}
	}
}

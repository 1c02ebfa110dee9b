package verifier

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"syscall"
)

// errAddress is returned for an address that the verifier does not connect to, whoever names it.
var errAddress = errors.New("not an address of an agent")

// guard decides where the verifier connects. Agents name their own addresses, so an address is not a reason to
// go there: link-local ones, among them the metadata services of clouds, are never an agent's, and neither is
// the verifier's own port, where a request of ours would arrive as an administrator's.
type guard struct {
	own      netip.AddrPort // the verifier's listener
	local    []netip.Addr   // addresses of this machine; the listener may be bound to all of them
	loopback bool           // agents may be on this machine
}

// metadata are services of clouds outside the link-local ranges.
var metadata = []netip.Addr{
	netip.MustParseAddr("fd00:ec2::254"),   // AWS
	netip.MustParseAddr("fd20:ce::254"),    // Google Cloud
	netip.MustParseAddr("100.100.100.200"), // Alibaba
	netip.MustParseAddr("192.0.0.192"),     // Oracle
}

// newGuard reads the addresses of this machine.
func newGuard(own netip.AddrPort, loopback bool) guard {
	g := guard{own: netip.AddrPortFrom(own.Addr().Unmap(), own.Port()), loopback: loopback}
	addrs, err := net.InterfaceAddrs()
	if err != nil {
		return g // loopback is known without asking
	}
	for _, a := range addrs {
		if ipnet, ok := a.(*net.IPNet); ok {
			if ip, ok := netip.AddrFromSlice(ipnet.IP); ok {
				g.local = append(g.local, ip.Unmap())
			}
		}
	}
	return g
}

// check returns errAddress, with the reason, for an address not to connect to.
func (g guard) check(ap netip.AddrPort) error {
	ip := ap.Addr().WithZone("").Unmap()
	switch {
	case ip.IsUnspecified(), ip.IsMulticast(), ip == netip.AddrFrom4([4]byte{255, 255, 255, 255}):
		return fmt.Errorf("%s is %w: it names no single machine", ip, errAddress)
	case ip.IsLinkLocalUnicast():
		return fmt.Errorf("%s is %w: link-local addresses are refused", ip, errAddress)
	case ip.IsLoopback() && !g.loopback:
		return fmt.Errorf("%s is %w: loopback addresses are refused; allow_loopback_agents = true allows them", ip, errAddress)
	case ap.Port() == 0:
		return fmt.Errorf("%s is %w: port 0", ap, errAddress)
	case ap.Port() == g.own.Port() && g.isOwn(ip):
		return fmt.Errorf("%s is %w: it is this verifier's own port", ap, errAddress)
	}
	for _, m := range metadata {
		if ip == m {
			return fmt.Errorf("%s is %w: it is a cloud's metadata service", ip, errAddress)
		}
	}
	return nil
}

// isOwn reports whether the listener can be reached at ip.
func (g guard) isOwn(ip netip.Addr) bool {
	if ip == g.own.Addr() {
		return true
	}
	if !g.own.Addr().IsUnspecified() {
		return false
	}
	if ip.IsLoopback() {
		return true
	}
	for _, l := range g.local {
		if l == ip {
			return true
		}
	}
	return false
}

// control is a net.Dialer's ControlContext: it sees every address that a name resolved to.
func (g guard) control(_ context.Context, _, address string, _ syscall.RawConn) error {
	ap, err := netip.ParseAddrPort(address)
	if err != nil {
		return fmt.Errorf("%q is %w: %w", address, errAddress, err)
	}
	return g.check(ap)
}

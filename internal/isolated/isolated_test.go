package isolated

import (
	"net"
	"testing"
	"time"
)

// Inside there is loopback, and nothing else: an address of the documentation range has no route.
func TestNothingButLoopback(t *testing.T) {
	if !Run(t) {
		return
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	conn, err := net.Dial("tcp", ln.Addr().String())
	if err != nil {
		t.Fatalf("loopback: %v", err)
	}
	conn.Close()
	interfaces, err := net.Interfaces()
	if err != nil || len(interfaces) != 1 || interfaces[0].Name != "lo" {
		t.Fatalf("interfaces: %v, %v", interfaces, err)
	}
	if conn, err := net.DialTimeout("tcp", "192.0.2.1:80", time.Second); err == nil {
		conn.Close()
		t.Fatal("there is a way out")
	}
}

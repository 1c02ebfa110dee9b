// Package isolated runs tests in a network namespace that has only a loopback interface. A test in which a program
// might follow an address or a redirect that it was given must not be able to reach anything if it does.
package isolated

import (
	"fmt"
	"os"
	"os/exec"
	"regexp"
	"syscall"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"
)

const insideOf = "KEYLIME_TEST_ISOLATED"

// Run reports whether the test is to go on: false in the process that go test started, where Run runs the test again
// in a process inside a namespace of its own, and takes over its result; true in there. Call it first in a top-level
// test:
//
//	if !isolated.Run(t) {
//		return
//	}
func Run(t *testing.T) bool {
	t.Helper()
	if os.Getenv(insideOf) == t.Name() {
		if err := loopbackUp(); err != nil {
			t.Fatal(err)
		}
		return true
	}
	cmd := exec.Command(os.Args[0], "-test.run=^"+regexp.QuoteMeta(t.Name())+"$", "-test.v=false")
	cmd.Env = append(os.Environ(), insideOf+"="+t.Name())
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET, Pdeathsig: syscall.SIGKILL}
	if uid := os.Geteuid(); uid != 0 {
		cmd.SysProcAttr.Cloneflags |= syscall.CLONE_NEWUSER
		cmd.SysProcAttr.UidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: uid, Size: 1}}
	}
	out, err := cmd.CombinedOutput()
	switch _, ran := err.(*exec.ExitError); {
	case err == nil:
	case ran:
		t.Fatalf("in its own network namespace: %v\n%s", err, out)
	case os.Getenv("KEYLIME_REQUIRE_TOOLS") != "":
		t.Fatalf("make a network namespace: %v", err)
	default:
		t.Skipf("skipped: this user cannot make a network namespace: %v", err)
	}
	return false
}

// loopbackUp sets the namespace's only interface up (netdevice(7)).
func loopbackUp() error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("set lo up: %w", err)
	}
	defer unix.Close(fd)
	request, err := unix.NewIfreq("lo")
	if err != nil {
		return fmt.Errorf("set lo up: %w", err)
	}
	request.SetUint16(unix.IFF_UP | unix.IFF_RUNNING)
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), unix.SIOCSIFFLAGS, uintptr(unsafe.Pointer(request))); errno != 0 {
		return fmt.Errorf("set lo up: %w", errno)
	}
	return nil
}

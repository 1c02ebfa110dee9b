package notify_test

import (
	"bytes"
	"context"
	"encoding/hex"
	"errors"
	"io"
	"log"
	"net"
	"os"
	"testing"
	"time"

	"github.com/go-zeromq/zmq4"
	"go.uber.org/goleak"

	"keylime/internal/notify"
)

var quiet = log.New(io.Discard, "", 0)

// TestPublisherServesSubscribers lets another implementation of ZeroMQ subscribe.
func TestPublisherServesSubscribers(t *testing.T) {
	t.Parallel()
	p := listen(t)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	all, none := zmq4.NewSub(ctx), zmq4.NewSub(ctx)
	defer all.Close()
	defer none.Close()
	for sub, topic := range map[zmq4.Socket]string{all: "", none: "something else"} {
		if err := sub.Dial("tcp://" + p.Addr().String()); err != nil {
			t.Fatal(err)
		}
		if err := sub.SetOption(zmq4.OptionSubscribe, topic); err != nil {
			t.Fatal(err)
		}
	}
	got := make(chan string, 100)
	go func() {
		for {
			m, err := all.Recv()
			if err != nil {
				return
			}
			if len(m.Frames) == 1 {
				got <- string(m.Frames[0])
			} else {
				got <- "not one frame"
			}
		}
	}()
	long := string(bytes.Repeat([]byte("x"), 70_000))
	// A subscription takes effect when the publisher has read it: publish until the first message arrives.
	eventually(t, "first message", func() bool {
		send(t, p, "hello")
		select {
		case m := <-got:
			return m == "hello"
		case <-time.After(20 * time.Millisecond):
			return false
		}
	})
	send(t, p, long)
	eventually(t, "long message", func() bool { return <-got == long })
}

// A stranger may connect and send anything: it costs a bounded amount and harms no other subscriber.
func TestPublisherSurvivesGarbage(t *testing.T) {
	t.Parallel()
	p := listen(t)
	greeting := append([]byte("\xff\x00\x00\x00\x00\x00\x00\x00\x00\x7f\x03\x00NULL"), make([]byte, 48)...)
	ready, _ := hex.DecodeString("04" + "19" + "055245414459" + "0b536f636b65742d54797065" + "00000003" + "535542")
	for name, bytes := range map[string][]byte{
		"nothing":         nil,
		"http":            []byte("GET / HTTP/1.1\r\nHost: x\r\n\r\n                                              "),
		"huge frame":      append(append(bytes.Clone(greeting), ready...), 0x02, 0x7f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff),
		"huge READY":      append(bytes.Clone(greeting), 0x06, 0x7f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff),
		"message first":   append(bytes.Clone(greeting), 0x00, 0x01, 0x01),
		"truncated frame": append(append(bytes.Clone(greeting), ready...), 0x00, 0x10, 0x01),
	} {
		conn, err := net.Dial("tcp", p.Addr().String())
		if err != nil {
			t.Fatal(name, err)
		}
		if _, err := conn.Write(bytes); err != nil {
			t.Fatal(name, err)
		}
		defer conn.Close()
		if name == "nothing" || name == "truncated frame" {
			continue // stays open, as it may
		}
		_ = conn.SetReadDeadline(time.Now().Add(10 * time.Second))
		if _, err := io.Copy(io.Discard, conn); errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("%s: the connection was not closed", name)
		}
	}
	for range 5000 {
		send(t, p, "nobody reads this")
	}
}

func TestPublisherNamesTheOptionThatIsWrong(t *testing.T) {
	t.Parallel()
	p := listen(t)
	if second, err := notify.ListenPublisher(t.Context(), p.Addr().String()); err == nil {
		second.Close()
		t.Fatal("two publishers on one port")
	} else if !bytes.Contains([]byte(err.Error()), []byte("zmq_port")) {
		t.Errorf("error %v does not name zmq_port", err)
	}
}

func TestClosedPublisherRefuses(t *testing.T) {
	t.Parallel()
	p := listen(t)
	p.Close()
	if err := p.Send(t.Context(), []byte("m")); err == nil {
		t.Error("a closed publisher took a message")
	}
}

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func listen(t *testing.T) *notify.Publisher {
	t.Helper()
	p, err := notify.ListenPublisher(t.Context(), "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.Close)
	return p
}

func send(t *testing.T, p *notify.Publisher, m string) {
	t.Helper()
	if err := p.Send(t.Context(), []byte(m)); err != nil {
		t.Error(err)
	}
}

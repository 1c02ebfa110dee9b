package agent

import (
	"context"
	"encoding/json"
	"net"
	"testing"
	"time"

	"github.com/go-zeromq/zmq4"
	"github.com/google/go-cmp/cmp"
	"github.com/rs/zerolog"

	"keylime/internal/api"
	"keylime/internal/notify"
)

// Revocations come from our own publisher and from another implementation's, and again after it was gone.
func TestRevocationsComeOverZeroMQ(t *testing.T) {
	t.Parallel()
	address := freeAddress(t)
	received := make(chan api.Notification, 16)
	sub := subscription{
		address: address, log: zerolog.Nop(), retry: backoff{first: 10 * time.Millisecond, longest: 20 * time.Millisecond},
		submit: func(n api.Notification) bool { received <- n; return true },
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan struct{})
	go func() { sub.run(ctx); close(ended) }()
	defer func() { cancel(); <-ended }()

	ours, err := notify.ListenPublisher(ctx, address)
	if err != nil {
		t.Fatal(err)
	}
	want := api.Notification{Msg: `{"type":"revocation"}`, Signature: "c2ln"}
	text, _ := json.Marshal(want)
	await(t, received, want, func() error { return ours.Send(ctx, text) })
	ours.Close()

	theirs := zmq4.NewPub(ctx)
	defer theirs.Close()
	waitFor(t, "the port to be free", func() bool { return theirs.Listen("tcp://"+address) == nil })
	want.Signature = "bmV3"
	text, _ = json.Marshal(want)
	await(t, received, want, func() error { return theirs.Send(zmq4.NewMsg(text)) })

	// What is no notification is passed over, and does not end the connection.
	for _, bad := range []zmq4.Msg{zmq4.NewMsg([]byte("not JSON")), zmq4.NewMsgFrom([]byte("part"), text), zmq4.NewMsg([]byte("[]"))} {
		if err := theirs.Send(bad); err != nil {
			t.Fatal(err)
		}
	}
	drain(received)
	want.Signature = "bGFzdA=="
	text, _ = json.Marshal(want)
	await(t, received, want, func() error { return theirs.Send(zmq4.NewMsg(text)) })
}

// await sends until the message arrives: a publisher does not keep what nobody has subscribed to yet.
func await(t *testing.T, received <-chan api.Notification, want api.Notification, send func() error) {
	t.Helper()
	waitFor(t, "the message", func() bool {
		if err := send(); err != nil {
			t.Fatal(err)
		}
		select {
		case got := <-received:
			if diff := cmp.Diff(want, got); diff != "" && got.Signature == want.Signature {
				t.Error(diff)
			}
			return got.Signature == want.Signature
		case <-time.After(20 * time.Millisecond):
			return false
		}
	})
}

func drain(received <-chan api.Notification) {
	for {
		select {
		case <-received:
		default:
			return
		}
	}
}

// A publisher that is none cannot make the agent hold much, or keep it from ending.
func TestFalsePublisherIsLeft(t *testing.T) {
	t.Parallel()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			conn.Write([]byte("220 mail.example.org ESMTP, and more than sixty-four bytes of a greeting\r\n"))
			conn.Close()
		}
	}()
	sub := subscription{address: listener.Addr().String(), log: zerolog.Nop(), submit: func(api.Notification) bool { t.Error("received"); return true }}
	if err := sub.listen(t.Context()); err == nil {
		t.Error("believed")
	}
}

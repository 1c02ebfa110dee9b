package notify

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"time"

	"keylime/internal/zmtp"
)

// Limits of the publisher. Anybody who reaches the port may subscribe, as with every PUB socket, so each of
// them bounds what a stranger can make us hold.
const (
	maxSubscribers  = 256
	maxTopics       = 64   // subscriptions of one subscriber
	maxIncoming     = 4096 // bytes of a frame that a subscriber sends: a subscription
	highWaterMark   = 1000 // messages kept for a subscriber that reads slowly; later ones are dropped for it
	zmqWriteTimeout = 10 * time.Second
	zmqHandshake    = 10 * time.Second
)

// Publisher is a ZeroMQ PUB socket on TCP: each message is one frame, without a topic of its own, to every
// subscriber whose subscription is a prefix of it ("" receives all). It speaks ZMTP 3.0 with the NULL mechanism.
type Publisher struct {
	ln net.Listener
	wg sync.WaitGroup

	mu     sync.Mutex
	subs   map[*subscriber]struct{}
	closed bool
}

// subscriber is one connection. Its topics are guarded by Publisher.mu.
type subscriber struct {
	conn   net.Conn
	queue  chan []byte
	done   chan struct{} // closed when the connection ends
	topics map[string]struct{}
}

// ListenPublisher binds host:port and serves subscribers until Close.
func ListenPublisher(ctx context.Context, addr string) (*Publisher, error) {
	var lc net.ListenConfig
	ln, err := lc.Listen(ctx, "tcp", addr)
	if err != nil {
		return nil, fmt.Errorf("bind ZeroMQ publisher: %w; choose other zmq_ip and zmq_port", err)
	}
	p := &Publisher{ln: ln, subs: map[*subscriber]struct{}{}}
	p.wg.Go(p.accept)
	return p, nil
}

// Addr is the bound address.
func (p *Publisher) Addr() net.Addr { return p.ln.Addr() }

// Send queues the message for every subscriber. The error is only for a closed publisher.
func (p *Publisher) Send(_ context.Context, message []byte) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return errors.New("publish: the publisher is closed")
	}
	for s := range p.subs {
		if !s.wants(message) {
			continue
		}
		select {
		case s.queue <- message:
		default: // high water mark
		}
	}
	return nil
}

// Close ends all connections and waits for their goroutines.
func (p *Publisher) Close() {
	p.mu.Lock()
	p.closed = true
	_ = p.ln.Close()
	for s := range p.subs {
		_ = s.conn.Close()
	}
	p.mu.Unlock()
	p.wg.Wait()
}

func (p *Publisher) accept() {
	for {
		conn, err := p.ln.Accept()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil { // out of descriptors: others must be able to close some
			time.Sleep(100 * time.Millisecond)
			continue
		}
		s := &subscriber{
			conn:   conn,
			queue:  make(chan []byte, highWaterMark),
			done:   make(chan struct{}),
			topics: map[string]struct{}{},
		}
		if !p.add(s) {
			_ = conn.Close()
			continue
		}
		p.wg.Go(func() { p.serve(s) })
	}
}

func (p *Publisher) add(s *subscriber) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed || len(p.subs) >= maxSubscribers {
		return false
	}
	p.subs[s] = struct{}{}
	return true
}

// serve reads a subscriber's subscriptions until it goes.
func (p *Publisher) serve(s *subscriber) {
	defer func() {
		p.mu.Lock()
		delete(p.subs, s)
		p.mu.Unlock()
		close(s.done)
		_ = s.conn.Close()
	}()
	_ = s.conn.SetDeadline(time.Now().Add(zmqHandshake))
	if err := zmtp.Handshake(s.conn, "PUB"); err != nil {
		return
	}
	_ = s.conn.SetDeadline(time.Time{})
	p.wg.Go(s.write)
	for {
		f, err := zmtp.ReadFrame(s.conn, maxIncoming)
		if err != nil || !p.subscribe(s, f) {
			return
		}
	}
}

// subscribe applies one frame of a subscriber: a message 0x01‖topic or 0x00‖topic, or the command of the same
// meaning that later revisions of ZMTP use. Others are ignored. It reports whether the subscriber may stay.
func (p *Publisher) subscribe(s *subscriber, f zmtp.Frame) bool {
	add, topic := false, []byte(nil)
	switch {
	case f.Command && bytes.HasPrefix(f.Body, []byte("\x09SUBSCRIBE")):
		add, topic = true, f.Body[len("\x09SUBSCRIBE"):]
	case f.Command && bytes.HasPrefix(f.Body, []byte("\x06CANCEL")):
		topic = f.Body[len("\x06CANCEL"):]
	case !f.Command && len(f.Body) > 0 && f.Body[0] <= 1:
		add, topic = f.Body[0] == 1, f.Body[1:]
	default:
		return true
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if !add {
		delete(s.topics, string(topic))
		return true
	}
	s.topics[string(topic)] = struct{}{}
	return len(s.topics) <= maxTopics
}

// wants reports whether a subscription is a prefix of the message.
func (s *subscriber) wants(message []byte) bool {
	for topic := range s.topics {
		if bytes.HasPrefix(message, []byte(topic)) {
			return true
		}
	}
	return false
}

// write sends what is queued; a subscriber that does not read in time is dropped.
func (s *subscriber) write() {
	for {
		select {
		case <-s.done:
			return
		case message := <-s.queue:
			_ = s.conn.SetWriteDeadline(time.Now().Add(zmqWriteTimeout))
			if err := zmtp.WriteFrame(s.conn, zmtp.Frame{Body: message}); err != nil {
				_ = s.conn.Close()
				return
			}
		}
	}
}

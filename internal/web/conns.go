package web

import (
	"container/list"
	"crypto/tls"
	"net"
	"net/http"
	"sync"
)

// conns keeps the open connections of a listener within bounds. A connection that has a request under way is never
// closed here; one that waits may be, the oldest first.
type conns struct {
	maxOpen, maxPending int

	mu       sync.Mutex
	places   map[net.Conn]place
	pending  *list.List // net.Conn, no request yet, oldest first
	idle     *list.List // net.Conn, between two requests, longest first
	stopping bool
}

// place is where a connection waits; the zero place is that of one with a request under way.
type place struct {
	line *list.List
	at   *list.Element
}

func newConns(maxOpen, maxPending int) *conns {
	return &conns{
		maxOpen: maxOpen, maxPending: maxPending,
		places: make(map[net.Conn]place), pending: list.New(), idle: list.New(),
	}
}

// state is the http.Server's ConnState hook.
func (c *conns) state(conn net.Conn, s http.ConnState) {
	if victim := c.move(conn, s); victim != nil {
		sever(victim)
	}
}

// move notes a connection's new state, and returns one that has to go.
func (c *conns) move(conn net.Conn, s http.ConnState) (victim net.Conn) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.leave(conn)
	switch s {
	case http.StateNew:
		if c.stopping {
			return conn
		}
		c.places[conn] = place{c.pending, c.pending.PushBack(conn)}
		return c.excess()
	case http.StateActive:
		c.places[conn] = place{}
	case http.StateIdle:
		c.places[conn] = place{c.idle, c.idle.PushBack(conn)}
	case http.StateClosed, http.StateHijacked:
		delete(c.places, conn)
	}
	return nil
}

// leave takes a connection out of the line that it waits in.
func (c *conns) leave(conn net.Conn) {
	if p := c.places[conn]; p.line != nil {
		p.line.Remove(p.at)
	}
}

// excess takes away the connection to close now that one more is open; nil when there is room. With every place
// taken by requests under way it is the newcomer, the only one that is pending.
func (c *conns) excess() net.Conn {
	var line *list.List
	switch {
	case c.pending.Len() > c.maxPending:
		line = c.pending
	case len(c.places) <= c.maxOpen:
		return nil
	case c.idle.Len() > 0:
		line = c.idle
	default:
		line = c.pending
	}
	victim := line.Front().Value.(net.Conn)
	c.leave(victim)
	delete(c.places, victim)
	return victim
}

// stop closes every connection that has sent no request yet, and those that still arrive.
func (c *conns) stop() {
	c.mu.Lock()
	c.stopping = true
	var all []net.Conn
	for e := c.pending.Front(); e != nil; e = e.Next() {
		all = append(all, e.Value.(net.Conn))
	}
	c.mu.Unlock()
	for _, conn := range all {
		sever(conn)
	}
}

// sever closes a connection without TLS's farewell, which would wait for a peer that does not read. The goroutine
// that serves it notices, and state is told.
func sever(conn net.Conn) {
	if t, ok := conn.(*tls.Conn); ok {
		conn = t.NetConn()
	}
	_ = conn.Close()
}

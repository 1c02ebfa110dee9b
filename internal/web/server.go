package web

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	stdlog "log"
	"net"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/rs/zerolog"
)

// Limits protect a listener from clients that take connections and give nothing. Zero fields have the default.
type Limits struct {
	// MaxConns is how many connections may be open. Above it the oldest one without a request under way is closed.
	MaxConns int
	// MaxPending is how many of them may be without a complete request header yet, the TLS handshake included. Above
	// it the oldest is closed: a genuine client needs its place for milliseconds, so those who wait lose it.
	MaxPending int
	// HeaderTime bounds handshake plus first header, and the header of each further request.
	HeaderTime time.Duration
	// IdleTime is how long a connection is kept between two requests.
	IdleTime time.Duration
	// MaxHeader is the size of a request's header in bytes, what net/http grants on top excepted.
	MaxHeader int
	// Drain is how long requests under way may take to finish once the server is to stop.
	Drain time.Duration
}

// orDefault fills in what suits a registrar or verifier of ten thousand agents.
func (l Limits) orDefault() Limits {
	l.MaxConns = cmp.Or(l.MaxConns, 20_000)
	l.MaxPending = cmp.Or(l.MaxPending, 1_024)
	l.HeaderTime = cmp.Or(l.HeaderTime, 10*time.Second)
	l.IdleTime = cmp.Or(l.IdleTime, 2*time.Minute)
	l.MaxHeader = cmp.Or(l.MaxHeader, 16<<10)
	l.Drain = cmp.Or(l.Drain, 10*time.Second)
	return l
}

// Listen opens a TCP listener at an address or host name.
func Listen(ctx context.Context, host string, port int) (net.Listener, error) {
	address := net.JoinHostPort(strings.Trim(host, "[]"), strconv.Itoa(port))
	ln, err := new(net.ListenConfig).Listen(ctx, "tcp", address)
	if err != nil {
		return nil, fmt.Errorf("listen on %s (is the address this machine's, and the port free?): %w", address, err)
	}
	return ln, nil
}

// Serve answers requests on ln, which it closes, until the context is done; then it lets requests under way finish and
// returns nil. With a nil tlsConfig it speaks plain HTTP. Only HTTP/1.1 is spoken: the API needs no more, and what
// HTTP/2 adds can be abused.
func Serve(ctx context.Context, ln net.Listener, h http.Handler, tlsConfig *tls.Config, limits Limits, log zerolog.Logger) error {
	limits = limits.orDefault()
	requests, abandon := context.WithCancel(context.WithoutCancel(ctx))
	defer abandon()
	watch := newConns(limits.MaxConns, limits.MaxPending)
	srv := &http.Server{
		Handler:                      h,
		ReadHeaderTimeout:            limits.HeaderTime,
		IdleTimeout:                  limits.IdleTime,
		MaxHeaderBytes:               limits.MaxHeader,
		ConnState:                    watch.state,
		BaseContext:                  func(net.Listener) context.Context { return requests },
		ErrorLog:                     stdlog.New(chatter{log}, "", 0),
		Protocols:                    new(http.Protocols),
		DisableGeneralOptionsHandler: true,
	}
	srv.Protocols.SetHTTP1(true)
	if tlsConfig != nil {
		tlsConfig = tlsConfig.Clone()
		tlsConfig.NextProtos = []string{"http/1.1"}
		ln = tls.NewListener(ln, tlsConfig)
	}
	ended := make(chan error, 1)
	go func() { ended <- srv.Serve(ln) }()
	select {
	case err := <-ended:
		_ = srv.Close()
		return fmt.Errorf("serve on %s: %w", ln.Addr(), err)
	case <-ctx.Done():
	}
	watch.stop()
	grace, cancel := context.WithTimeout(requests, limits.Drain)
	defer cancel()
	err := srv.Shutdown(grace)
	if errors.Is(err, context.DeadlineExceeded) {
		log.Warn().Dur("ms", limits.Drain).Msg("Requests still under way after the drain time are broken off")
		abandon()
		err = srv.Close()
	}
	<-ended
	return err
}

// chatter logs what net/http says about connections: failed handshakes and the like, which anybody can cause.
type chatter struct{ log zerolog.Logger }

func (c chatter) Write(line []byte) (int, error) {
	c.log.Debug().Str("detail", harmless(strings.TrimSpace(string(line)))).Msg("HTTP connection failed")
	return len(line), nil
}

package registrar

import (
	"context"
	"crypto/rand"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"time"

	"github.com/rs/zerolog"

	"keylime/internal/config"
	"keylime/internal/pki"
	"keylime/internal/web"
	"keylime/store"
)

// Registrar is one registrar over a store. Safe for concurrent use.
type Registrar struct {
	store    store.Registrar
	rules    identityRules
	refuseEK bool // of a key that another active id has
	ttl      time.Duration
	room     int // pending registrations at once
	maxBody  int64
	drain    time.Duration
	log      zerolog.Logger
	random   io.Reader
	now      func() time.Time

	byAddress, byID, wrongTags *web.Limiter
}

// New makes a registrar; it does nothing until Serve runs. An error names the option that is wrong.
func New(cfg config.Registrar, s store.Registrar, log zerolog.Logger) (*Registrar, error) {
	authorities := &issuers{dir: cfg.TPMCertStore, log: log}
	if cfg.TPMIdentity == rootIAK {
		if _, err := authorities.load(time.Now()); err != nil {
			return nil, fmt.Errorf("option tpm_cert_store of [tenant], which tpm_identity = %s needs: %w", rootIAK, err)
		}
	}
	return &Registrar{
		store:    s,
		rules:    identityRules{root: cfg.TPMIdentity, malformed: cfg.MalformedCertAction, issuers: authorities, log: log},
		refuseEK: cfg.DuplicateEK == "refuse",
		ttl:      cfg.PendingTTL, room: cfg.MaxPending, maxBody: int64(min(maxRequest, cfg.MaxUploadSize)), drain: cfg.ShutdownDrainTimeout,
		log: log, random: rand.Reader, now: time.Now,
		byAddress: web.NewLimiter(registerEvery, registerBurst, limiterKeys),
		byID:      web.NewLimiter(registerIDEvery, registerIDBurst, limiterKeys),
		wrongTags: web.NewLimiter(wrongTagEvery, wrongTagBurst, limiterKeys),
	}, nil
}

// Run serves the registrar's two ports until ctx is done, and then lets the requests under way finish. ca says what a
// CA is like that is made because there is none.
func Run(ctx context.Context, cfg config.Registrar, ca config.CA, s store.Registrar, log zerolog.Logger) error {
	if err := cfg.TLS.Provide(ca, cfg.IP); err != nil {
		return fmt.Errorf("registrar: %w", err)
	}
	settings, err := pki.ServerTLS(cfg.TLS.ServerFiles())
	if err != nil {
		return fmt.Errorf("registrar: TLS: %w", err)
	}
	r, err := New(cfg, s, log)
	if err != nil {
		return fmt.Errorf("registrar: %w", err)
	}
	plain, err := web.Listen(ctx, cfg.IP, cfg.Port)
	if err != nil {
		return fmt.Errorf("registrar: option port: %w", err)
	}
	secure, err := web.Listen(ctx, cfg.IP, cfg.TLSPort)
	if err != nil {
		plain.Close()
		return fmt.Errorf("registrar: option tls_port: %w", err)
	}
	return r.Serve(ctx, plain, secure, settings)
}

// Serve answers on the two listeners, and drops registrations that nobody activates, until ctx is done.
func (r *Registrar) Serve(ctx context.Context, plain, secure net.Listener, settings *tls.Config) error {
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	handler := r.Handler()
	limits := web.Limits{Drain: r.drain}
	parts := []func() error{
		func() error { return web.Serve(ctx, plain, handler, nil, limits, r.log) },
		func() error { return web.Serve(ctx, secure, handler, settings, limits, r.log) },
		func() error { r.expire(ctx); return nil },
	}
	r.log.Info().Stringer("http", plain.Addr()).Stringer("https", secure.Addr()).Msg("Registrar is listening")
	ended := make(chan error, len(parts))
	for _, part := range parts {
		go func() { ended <- part() }()
	}
	var first error
	for range parts {
		if err := <-ended; err != nil && first == nil {
			first = fmt.Errorf("registrar: %w", err)
		}
		stop() // one part gone is all gone
	}
	return first
}

// Handler serves the API on both ports. Which routes need TLS is the routes' to say.
func (r *Registrar) Handler() http.Handler { return web.New(r.options(), r.routes()...) }

// expire drops pending registrations past their time.
func (r *Registrar) expire(ctx context.Context) {
	tick := time.NewTicker(expireEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		if n, err := r.dropExpired(ctx); err != nil && ctx.Err() == nil {
			r.log.Error().Err(err).Msg("Registrations past their time could not be dropped; tried again soon")
		} else if n > 0 {
			r.log.Info().Int("count", n).Msg("Dropped registrations that nobody activated")
		}
	}
}

func (r *Registrar) dropExpired(ctx context.Context) (total int, err error) {
	for {
		n, err := r.store.ExpirePending(ctx, r.now().Add(-r.ttl), expireBatch)
		total += n
		if err != nil || n < expireBatch {
			return total, err
		}
	}
}

// makeRoom drops the oldest pending registrations when there are too many. A genuine agent activates in seconds, so
// that junk is what waits longest.
func (r *Registrar) makeRoom(ctx context.Context) error {
	n, err := r.store.CountPending(ctx)
	if err != nil || n < r.room {
		return err
	}
	if _, err = r.store.ExpirePending(ctx, r.now(), n-r.room+1); err == nil {
		r.log.Warn().Int("max_pending", r.room).Msg("Too many registrations wait for activation: the oldest is dropped")
	}
	return err
}

package repo

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"net/url"
	"strings"
	"time"
)

const (
	connectTimeout = 20 * time.Second
	answerTimeout  = 60 * time.Second // until the answer's header
	stallTimeout   = 60 * time.Second // between two reads of a body
	maxRedirects   = 5
	attempts       = 3
)

type remote struct {
	base   *url.URL // its path ends with a slash
	client *http.Client
	wait   time.Duration // before the second attempt
}

// Remote returns the repository at an http or https address. Every file is read from that very server: a redirect to
// another host, port or scheme is refused.
func Remote(address string) (*Site, error) {
	base, err := url.Parse(address)
	if err != nil {
		return nil, fmt.Errorf("address of the repository: %w", err)
	}
	if base.Scheme != "http" && base.Scheme != "https" || base.Host == "" || base.RawQuery != "" || base.Fragment != "" {
		return nil, fmt.Errorf("address of the repository %q: give http://HOST/PATH or https://HOST/PATH", base.Redacted())
	}
	if !strings.HasSuffix(base.Path, "/") {
		base.Path += "/"
	}
	base.RawPath = ""
	transport := http.DefaultTransport.(*http.Transport).Clone()
	transport.DialContext = (&net.Dialer{Timeout: connectTimeout}).DialContext
	transport.ResponseHeaderTimeout = answerTimeout
	transport.MaxIdleConnsPerHost = 64
	transport.DisableCompression = true // checksums are of files as they are stored
	return &Site{name: base.Redacted(), remote: &remote{
		base:   base,
		client: &http.Client{Transport: transport, CheckRedirect: sameServer},
		wait:   time.Second,
	}}, nil
}

func sameServer(next *http.Request, before []*http.Request) error {
	first := before[0].URL
	if next.URL.Scheme != first.Scheme || next.URL.Host != first.Host {
		return fmt.Errorf("the server sends us on to %s://%s: give that address itself if you trust it", next.URL.Scheme, next.URL.Host)
	}
	if len(before) > maxRedirects {
		return fmt.Errorf("more than %d redirects", maxRedirects)
	}
	return nil
}

func (r *remote) address(name string) *url.URL {
	u := *r.base
	u.Path += name
	return &u
}

// open requests a file, again when the server is busy or cannot be reached.
func (r *remote) open(ctx context.Context, name string, n int64) (*File, error) {
	wait := r.wait
	for attempt := 1; ; attempt++ {
		f, again, err := r.request(ctx, name, n)
		if err == nil || !again || attempt == attempts {
			return f, err
		}
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-time.After(wait):
			wait *= 4
		}
	}
}

func (r *remote) request(ctx context.Context, name string, n int64) (f *File, again bool, err error) {
	address := r.address(name)
	ctx, cancel := context.WithCancelCause(ctx)
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, address.String(), nil)
	if err != nil {
		cancel(nil)
		return nil, false, err
	}
	req.Header.Set("User-Agent", "keylime-policy")
	if n > 0 {
		req.Header.Set("Range", fmt.Sprintf("bytes=0-%d", n-1))
	}
	resp, err := r.client.Do(req)
	if err != nil {
		cancel(nil)
		var network net.Error
		return nil, errors.As(err, &network) && ctx.Err() == nil, err
	}
	fail := func(again bool, err error) (*File, bool, error) {
		cancel(nil)
		return nil, again, errors.Join(err, resp.Body.Close())
	}
	switch code := resp.StatusCode; {
	case code == http.StatusOK, code == http.StatusPartialContent && n > 0 && strings.HasPrefix(resp.Header.Get("Content-Range"), "bytes 0-"):
	// Servers of static files that do not tell what they hold answer 403 or 401 for what they do not have.
	case code == http.StatusNotFound, code == http.StatusGone, code == http.StatusForbidden, code == http.StatusUnauthorized:
		return fail(false, fmt.Errorf("%s: the server answers %s: %w", address.Redacted(), resp.Status, fs.ErrNotExist))
	default:
		return fail(code >= 500 || code == http.StatusTooManyRequests, fmt.Errorf("%s: the server answers %s", address.Redacted(), resp.Status))
	}
	body := &stalling{ctx: ctx, body: resp.Body, cancel: cancel}
	body.timer = time.AfterFunc(stallTimeout, body.stalled)
	return &File{Reader: body, Size: resp.ContentLength, close: body.Close}, false, nil
}

// stalling is a body that ends with an error when nothing comes for stallTimeout.
type stalling struct {
	ctx    context.Context
	body   io.ReadCloser
	timer  *time.Timer
	cancel context.CancelCauseFunc
}

var errStalled = fmt.Errorf("the server sent nothing for %s", stallTimeout)

func (s *stalling) stalled() { s.cancel(errStalled) }

func (s *stalling) Read(p []byte) (int, error) {
	s.timer.Reset(stallTimeout)
	n, err := s.body.Read(p)
	if err != nil && err != io.EOF {
		if cause := context.Cause(s.ctx); cause != nil {
			err = cause
		}
	}
	return n, err
}

func (s *stalling) Close() error {
	s.timer.Stop()
	err := s.body.Close()
	s.cancel(nil)
	return err
}

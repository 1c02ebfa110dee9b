package notify

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"time"
)

const (
	webhookTimeout  = 30 * time.Second
	webhookMaxReply = 64 << 10 // read only so that the connection can be used again
)

// Webhook posts messages to one URL.
type Webhook struct {
	url string
	hc  *http.Client
}

// NewWebhook checks the URL. A URL without a scheme is https; http is spoken only when the URL says so. tlsConfig
// holds the authorities that the receiver's certificate must come from and the client certificate to present.
func NewWebhook(rawURL string, tlsConfig *tls.Config) (*Webhook, error) {
	if !strings.Contains(rawURL, "://") {
		rawURL = "https://" + rawURL
	}
	u, err := url.Parse(rawURL)
	if err != nil {
		return nil, fmt.Errorf("webhook_url: %w", err)
	}
	if u.Scheme != "https" && u.Scheme != "http" || u.Hostname() == "" {
		return nil, fmt.Errorf("webhook_url %q: want https://host/path or http://host/path", u.Redacted())
	}
	return &Webhook{url: u.String(), hc: &http.Client{
		Timeout: webhookTimeout,
		Transport: &http.Transport{
			TLSClientConfig:     tlsConfig,
			TLSHandshakeTimeout: webhookTimeout,
			MaxIdleConns:        4,
			MaxConnsPerHost:     4,
			IdleConnTimeout:     time.Minute,
		},
		// A redirect would hand the message to somebody that nobody configured.
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}}, nil
}

// URL is where messages go, without a password that it may hold.
func (w *Webhook) URL() string {
	u, err := url.Parse(w.url)
	if err != nil {
		return "webhook"
	}
	return u.Redacted()
}

// Send posts one message. Every answer but 200 and 202 is an error, a redirect too. Safe for concurrent use.
func (w *Webhook) Send(ctx context.Context, message []byte) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, w.url, bytes.NewReader(message))
	if err != nil {
		return fmt.Errorf("send webhook: %w", err)
	}
	req.Header.Set("Content-Type", "application/json")
	resp, err := w.hc.Do(req)
	if err != nil {
		var u *url.Error // its text repeats the URL, with whatever secret is in the path
		if errors.As(err, &u) {
			err = u.Err
		}
		return fmt.Errorf("send webhook: %w", err)
	}
	defer resp.Body.Close()
	_, _ = io.CopyN(io.Discard, resp.Body, webhookMaxReply)
	if resp.StatusCode != http.StatusOK && resp.StatusCode != http.StatusAccepted {
		return fmt.Errorf("send webhook: the receiver answered %s; want 200 or 202", resp.Status)
	}
	return nil
}

// Close drops idle connections.
func (w *Webhook) Close() { w.hc.CloseIdleConnections() }

package tenant

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"time"
)

// fetch downloads a policy. The URL comes from the command line, the answer from anywhere: only http and https are
// spoken, a redirect is an answer like any other (so not 200), and at most maxPolicySize bytes are read. Whoever calls
// must check the content against something trusted.
func fetch(ctx context.Context, address string, timeout time.Duration) ([]byte, error) {
	u, err := url.Parse(address)
	if err != nil {
		return nil, err
	}
	if (u.Scheme != "https" && u.Scheme != "http") || u.Host == "" {
		return nil, fmt.Errorf("%s: only http:// and https:// addresses are fetched", address)
	}
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, address, nil)
	if err != nil {
		return nil, err
	}
	client := &http.Client{CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	resp, err := client.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	switch {
	case resp.StatusCode >= 300 && resp.StatusCode < 400:
		return nil, fmt.Errorf("%s redirects to %q; redirects are not followed: give the final address", address, resp.Header.Get("Location"))
	case resp.StatusCode != http.StatusOK:
		return nil, fmt.Errorf("%s answered %s", address, resp.Status)
	case resp.ContentLength > maxPolicySize:
		return nil, fmt.Errorf("%s: %d bytes are more than %d", address, resp.ContentLength, maxPolicySize)
	}
	text, err := io.ReadAll(io.LimitReader(resp.Body, maxPolicySize+1))
	if err != nil {
		return nil, fmt.Errorf("%s: %w", address, err)
	}
	if len(text) > maxPolicySize {
		return nil, errors.New(address + ": more than 100 MiB")
	}
	return text, nil
}

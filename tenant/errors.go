package tenant

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net/http"
	"net/url"

	"keylime/internal/api"
	"keylime/internal/pki"
)

// Exit codes of the commands. Upstream's form of the command line knows only 0, 1 and 2.
const (
	exitFailed      = 1
	exitUsage       = 2
	exitNotFound    = 3
	exitUntrusted   = 4
	exitUnreachable = 5
)

// Error is a failed command: what happened, what the operator can do about it, and the exit code.
type Error struct {
	code int
	err  error
	hint string
}

// Error is the message, and the hint on a line of its own.
func (e *Error) Error() string {
	if e.hint == "" {
		return e.err.Error()
	}
	return e.err.Error() + "\nhint: " + e.hint
}

// Unwrap returns the cause.
func (e *Error) Unwrap() error { return e.err }

// ExitCode is the code to exit with, 1 to 5.
func (e *Error) ExitCode() int { return e.code }

// failure is an *Error with a formatted message.
func failure(code int, hint, format string, args ...any) error {
	return &Error{code: code, err: fmt.Errorf(format, args...), hint: hint}
}

// usage is a command line that cannot be carried out; nothing has been asked of anyone.
func usage(hint, format string, args ...any) error {
	return failure(exitUsage, hint, format, args...)
}

// exitCode is the code that an error of a command stands for.
func exitCode(err error) int {
	var e *Error
	if errors.As(err, &e) {
		return e.code
	}
	return exitFailed
}

// notFound reports whether a server answered that it knows no such thing.
func notFound(err error) bool { return api.IsStatus(err, http.StatusNotFound) }

// saidSomething reports whether a peer answered at all, if only with a refusal or with what is not the API's.
func saidSomething(err error) bool {
	var e *api.Error
	return errors.As(err, &e) || errors.Is(err, api.ErrMalformed)
}

// brief drops from a client's error what the reader knows: method and address of the request.
type brief struct{ err error }

func (b brief) Unwrap() error { return b.err }

func (b brief) Error() string {
	var answer *api.Error
	var transport *url.Error
	switch {
	case errors.As(b.err, &answer) && answer.Message != "":
		return fmt.Sprintf("%d %s", answer.Status, clean(answer.Message))
	case errors.As(b.err, &answer):
		return fmt.Sprintf("%d %s", answer.Status, http.StatusText(answer.Status))
	case errors.As(b.err, &transport):
		return transport.Err.Error()
	}
	return b.err.Error()
}

// asking explains why a question to a peer failed.
func asking(who peer, doing string, err error) error {
	if err == nil {
		return nil
	}
	wrapped := fmt.Errorf("%s: %s: %w", who, doing, brief{err})
	var answer *api.Error
	switch {
	case errors.Is(err, context.Canceled):
		return &Error{exitFailed, wrapped, "nothing was undone; `keylime tenant status -u AGENT` shows how far it came"}
	case errors.As(err, &answer):
		return &Error{answerCode(answer), wrapped, answerHint(who, answer)}
	}
	if errors.Is(err, pki.ErrOtherCertificate) {
		return &Error{exitUntrusted, wrapped, "find out who answers there; a reinstalled agent registers its new certificate when it starts"}
	}
	if hint := tlsHint(err); hint != "" {
		return &Error{exitUnreachable, wrapped, hint}
	}
	return &Error{exitUnreachable, wrapped, who.unreachable}
}

func answerCode(e *api.Error) int {
	switch e.Status {
	case http.StatusNotFound:
		return exitNotFound
	case http.StatusServiceUnavailable, http.StatusGatewayTimeout:
		return exitUnreachable
	}
	return exitFailed
}

func answerHint(who peer, e *api.Error) string {
	switch e.Status {
	case http.StatusUnauthorized, http.StatusForbidden:
		return "the client certificate must be signed by the CA in " + who.role + "'s trusted_client_ca; see client_cert and client_key in [tenant]"
	case http.StatusServiceUnavailable, http.StatusGatewayTimeout, http.StatusTooManyRequests:
		return "it is busy; try again"
	case http.StatusInternalServerError:
		return "its log tells the cause"
	}
	return ""
}

// tlsHint names what to change when the two sides could not agree on TLS; "" when that was not the cause.
func tlsHint(err error) string {
	var (
		authority x509.UnknownAuthorityError
		name      x509.HostnameError
		invalid   x509.CertificateInvalidError
		alert     tls.AlertError
		record    tls.RecordHeaderError
	)
	switch {
	case errors.As(err, &authority):
		return "its certificate is signed by another CA: copy the CA's certificate here and name it in trusted_server_ca of [tenant]"
	case errors.As(err, &name):
		return "its certificate does not bear this name: use one that it bears, or issue a certificate with this name"
	case errors.As(err, &invalid) && invalid.Reason == x509.Expired:
		return "its certificate is expired or not yet valid: renew it, or correct the clock"
	case errors.As(err, &invalid):
		return "its certificate may not be used for a server: issue a new one"
	case errors.As(err, &alert):
		return "it refused our side of the handshake: client_cert must be signed by its trusted_client_ca, and TLS 1.2 or newer spoken"
	case errors.As(err, &record), errors.Is(err, http.ErrSchemeMismatch):
		return "something answers there, but without TLS: is this the TLS port?"
	}
	return ""
}

// peer is a party that the tenant asks, as it is named in messages.
type peer struct {
	role        string // "verifier", "registrar", "agent"
	addr        string // host:port
	unreachable string // what to do when it does not answer
}

func (p peer) String() string { return p.role + " at " + p.addr }

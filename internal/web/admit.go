package web

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"

	"keylime/internal/pki"
)

// Access says who may use a route.
type Access int

const (
	// Public routes are open to everybody, over plain HTTP too; a bearer token that comes along over TLS must be good.
	Public Access = iota
	// Private routes are open to everybody, but over TLS only. They ignore tokens: they are where new ones come from.
	Private
	// Admin routes need TLS and a client certificate of the operators' CA.
	Admin
	// Agent routes need TLS and the bearer token of the agent that the path's {id} names.
	Agent
	// AgentOrAdmin routes are open to either.
	AgentOrAdmin
)

// Authenticate finds the agent that a bearer token belongs to. The error is a TokenError for a token that is not good; any
// other is the server's own trouble.
type Authenticate func(ctx context.Context, token string) (agentID string, err error)

// TokenError is why a token is refused, in the words of the wire.
type TokenError string

func (e TokenError) Error() string { return string(e) }

const (
	ErrToken        TokenError = "Invalid authentication token"
	ErrTokenExpired TokenError = "Authentication token expired"

	errTokenHeader TokenError = "Invalid Authorization header format"
)

// admit holds a client to the route's access. The mere presence of an Authorization header makes it an agent, which
// no client certificate turns into an administrator. id is the path's.
func (x *exchange) admit(id string) error {
	access := x.route.Access
	switch {
	case x.req.TLS == nil && access == Public:
		return nil
	case x.req.TLS == nil:
		return &Error{Code: http.StatusBadRequest, Err: fmt.Errorf("%s needs TLS", x.route.Action)}
	case access == Private, access == Public && x.rt.opts.Authenticate == nil:
		return nil
	}
	if header := x.req.Header.Values("Authorization"); len(header) > 0 {
		if err := x.identify(header); err != nil {
			return err
		}
	}
	switch {
	case access == Public:
		return nil
	case access == Admin && x.agent != "":
		return x.forbidden("requires admin authentication (mTLS certificate)", nil)
	case access == Admin:
		return x.admitAdmin("requires admin authentication (mTLS certificate)")
	case access == Agent && x.agent == "":
		return x.forbidden("requires agent authentication (PoP token)", nil)
	case access == AgentOrAdmin && x.agent == "":
		return x.admitAdmin("requires authentication")
	case x.agent != id:
		return &Error{Code: http.StatusForbidden, title: "Forbidden",
			Msg: fmt.Sprintf("Agent %s cannot access resource %s (ownership required)", x.agent, harmless(id))}
	}
	return nil
}

// identify finds the agent whose token the request bears.
func (x *exchange) identify(header []string) error {
	token, ok := strings.CutPrefix(header[0], "Bearer ")
	if !ok || token == "" || len(header) > 1 {
		return unauthorized(errTokenHeader)
	}
	if x.rt.opts.Authenticate == nil {
		return unauthorized(ErrToken)
	}
	agent, err := x.rt.opts.Authenticate(x.req.Context(), token)
	var refused TokenError
	switch {
	case errors.As(err, &refused):
		return unauthorized(refused)
	case err != nil:
		return err
	}
	x.agent = agent
	return nil
}

// admitAdmin wants an administrator's certificate; one that is read-only does for reading.
func (x *exchange) admitAdmin(want string) error {
	op, err := pki.Admin(x.req.TLS, x.start)
	if err != nil {
		return x.forbidden(want, err)
	}
	if op.ReadOnly && x.req.Method != http.MethodGet {
		return x.forbidden("changes something, and the certificate of "+op.Name+" is read-only", nil)
	}
	x.operator = op
	return nil
}

func (x *exchange) forbidden(why string, cause error) *Error {
	return &Error{Code: http.StatusForbidden, title: "Forbidden", Msg: "Action " + x.route.Action + " " + why, Err: cause}
}

func unauthorized(why TokenError) *Error {
	return &Error{Code: http.StatusUnauthorized, title: "Unauthorized", Msg: string(why)}
}

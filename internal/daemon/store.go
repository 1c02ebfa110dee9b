package daemon

import (
	"context"
	"errors"
	"fmt"

	"github.com/rs/zerolog"
)

// OpenStore opens the part of a store that a role uses. close ends its use.
type OpenStore[S any] func(path string, log zerolog.Logger) (s S, close func() error, err error)

// Over is a role that runs over the store at a path, which is open for as long as it runs.
func (open OpenStore[S]) Over(path, role string, run func(ctx context.Context, s S, log zerolog.Logger) error) Runner {
	return func(ctx context.Context, log zerolog.Logger) (err error) {
		s, closeStore, err := open(path, log)
		if err != nil {
			return fmt.Errorf("%s: %w", role, err)
		}
		defer func() { err = errors.Join(err, closeStore()) }()
		return run(ctx, s, log)
	}
}

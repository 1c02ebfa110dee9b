package repo

import (
	"context"

	"golang.org/x/sync/errgroup"
)

// Each calls do for every item, workers of them at a time. It ends at the first error.
func Each[T any](ctx context.Context, workers int, items []T, do func(ctx context.Context, item T) error) error {
	group, running := errgroup.WithContext(ctx)
	group.SetLimit(max(workers, 1))
	for _, item := range items {
		if running.Err() != nil {
			break
		}
		group.Go(func() error {
			if err := running.Err(); err != nil {
				return err
			}
			return do(running, item)
		})
	}
	if err := group.Wait(); err != nil {
		return err
	}
	return ctx.Err()
}

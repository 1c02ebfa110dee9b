// Package oci reads container images, as the Open Container Initiative defines them, for the digests of the files in them.
package oci

import (
	"context"
	"fmt"
	"os"
	"sync"

	"github.com/rs/zerolog"

	"keylime/internal/policytool/collect"
)

// Options say what to read and how.
type Options struct {
	// Image is the name of the image in the layout; "" is any.
	Image string
	// Platform is OS/ARCHITECTURE[/VARIANT]; "" is the only one that there is.
	Platform string
	// Workers is how many layers are read at a time.
	Workers int
	Log     zerolog.Logger
}

// Layout is an image layout: a directory, or a tar archive of one.
type Layout struct {
	path     string
	platform *platform
	options  Options
}

// NewLayout returns the image layout at a path.
func NewLayout(path string, o Options) (*Layout, error) {
	l := &Layout{path: path, options: o}
	if o.Platform != "" {
		p, err := parsePlatform(o.Platform)
		if err != nil {
			return nil, err
		}
		l.platform = &p
	}
	return l, nil
}

func (l *Layout) String() string { return l.path }

// Collect adds the files that a container of each chosen image begins with: its layers one above the other. Each blob has
// the digest that it is named by.
func (l *Layout) Collect(ctx context.Context, into *collect.Files, alg collect.Algorithm) error {
	layout, err := openLayout(ctx, l.path)
	if err != nil {
		return err
	}
	defer layout.Close()
	chooser := chooser{layout: layout, name: l.options.Image, want: l.platform}
	images, err := chooser.choose(ctx)
	if err != nil {
		return err
	}
	for _, i := range images {
		l.options.Log.Debug().Msgf("image for %s with %d layers", i.platform, len(i.manifest.Layers))
		stack := &stack{into: into, alg: alg, workers: l.options.Workers, log: l.options.Log}
		for _, d := range i.manifest.Layers {
			stack.layers = append(stack.layers, layer{d.Digest, func(ctx context.Context) (*changes, error) {
				return layout.layer(ctx, d, alg, into)
			}})
		}
		if err := stack.collect(ctx); err != nil {
			return err
		}
	}
	return nil
}

func (l *layout) layer(ctx context.Context, d descriptor, alg collect.Algorithm, progress *collect.Files) (*changes, error) {
	if err := checkLayer(d); err != nil {
		return nil, err
	}
	blob, err := l.blob(ctx, d)
	if err != nil {
		return nil, err
	}
	defer blob.Close()
	return readLayer(ctx, blob, alg, progress)
}

// Layer is a single layer: a tar archive, compressed or not.
type Layer struct {
	path    string
	options Options
}

// NewLayer returns the layer in a file.
func NewLayer(path string, o Options) *Layer { return &Layer{path, o} }

func (l *Layer) String() string { return l.path }

// Collect adds the files of the layer.
func (l *Layer) Collect(ctx context.Context, into *collect.Files, alg collect.Algorithm) error {
	read := func(ctx context.Context) (*changes, error) {
		f, err := os.Open(l.path)
		if err != nil {
			return nil, err
		}
		defer f.Close()
		return readLayer(ctx, f, alg, into)
	}
	stack := &stack{into: into, alg: alg, workers: 1, log: l.options.Log, layers: []layer{{l.path, read}}}
	return stack.collect(ctx)
}

// layer is one layer of a stack and how to read it.
type layer struct {
	name string
	read func(context.Context) (*changes, error)
}

// stack is the layers of an image, the lowest first.
type stack struct {
	layers  []layer
	into    *collect.Files
	alg     collect.Algorithm
	workers int
	log     zerolog.Logger
}

// collect reads several layers at a time and adds what is visible, from the top. No more layers are held than are read at
// a time.
func (s *stack) collect(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	var readers sync.WaitGroup
	defer func() { cancel(); readers.Wait() }()
	type result struct {
		changes *changes
		err     error
	}
	slots := make(chan struct{}, max(s.workers, 1))
	results := make([]chan result, len(s.layers))
	for i := range results {
		results[i] = make(chan result, 1)
	}
	readers.Go(func() {
		for i := len(s.layers) - 1; i >= 0; i-- {
			select {
			case slots <- struct{}{}:
			case <-ctx.Done():
				return
			}
			readers.Go(func() {
				c, err := s.layers[i].read(ctx)
				results[i] <- result{c, err}
			})
		}
	})
	view := newView(s.into, s.alg)
	dangling := 0
	for i := len(s.layers) - 1; i >= 0; i-- {
		select {
		case r := <-results[i]:
			if r.err != nil {
				return fmt.Errorf("layer %s: %w", s.layers[i].name, r.err)
			}
			view.below(r.changes)
			dangling += r.changes.dangling
			<-slots
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	if dangling > 0 {
		s.log.Warn().Msgf("%d hard links lead to files that their layer does not hold: left out", dangling)
	}
	return nil
}

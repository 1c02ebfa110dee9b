// Package collect gathers the digests of files from whatever they are read from: trees, images, packages, lists.
//
// A source is anything with the method
//
//	Collect(ctx context.Context, into *collect.Files, alg collect.Algorithm) error
//
// It adds every file that it finds, hashed with alg unless the source states digests itself, and reports how far it is:
//
//	func (s *Image) Collect(ctx context.Context, into *collect.Files, alg collect.Algorithm) error {
//		into.Expect(s.size)
//		hasher := into.Hasher(alg) // one per goroutine
//		for path, content := range s.files(ctx) {
//			if err := hasher.Add(path, content); err != nil {
//				return fmt.Errorf("read %s of image %s: %w", path, s.name, err)
//			}
//		}
//		return ctx.Err()
//	}
//
// An error means that the source could not be read to its end; the policy is then not made. What a source leaves out on
// purpose it logs.
package collect

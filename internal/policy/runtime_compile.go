package policy

import (
	"math"
	"slices"
	"strconv"
	"strings"

	"keylime/ima"
	"keylime/internal/strictjson"
	"keylime/tpm"
)

// CompileRuntime validates and compiles a runtime policy's text, plain or in a DSSE envelope, whose signatures are not
// its concern. Its error is an *Error, whose text is the REST API's
// answer, as in "Runtime policy is malformatted: 'meta' is a required property".
//
// The text must be JSON of Keylime's schema; properties that the schema does not name are allowed and ignored. Of
// several violations the error names the one nearest to the root, the first of these.
func CompileRuntime(text []byte, allowed ...Extension) (*Runtime, error) {
	d, err := OpenDocument(text)
	if err != nil {
		return nil, err
	}
	return d.Compile(allowed...)
}

// Extension is something that a policy may have only where it is allowed by name.
type Extension int

// DMPolicy is "dm_policy" of "ima". Where it is not allowed it must be null.
const DMPolicy Extension = 1

// compileRuntime compiles a policy's own text.
func compileRuntime(text []byte, allowed []Extension) (*Runtime, error) {
	c := runtimeCompiler{schema: schema{r: strictjson.NewReader(string(text), maxDepth)}, allowed: allowed}
	if err := c.root(); err != nil {
		return nil, &Error{"Runtime policy is not valid JSON! " + err.Error()}
	}
	if c.fault != "" {
		return nil, &Error{malformed + c.fault}
	}
	excludes, err := compileExcludes(c.patterns)
	if err != nil {
		return nil, err
	}
	out := c.out
	out.digests, out.keyrings, out.buffers = c.digests.table(), c.keyrings.table(), c.buffers.table()
	out.excludes = excludes
	return &out, nil
}

// runtimeCompiler reads the text once, from front to end, without building a tree of it.
type runtimeCompiler struct {
	schema
	allowed                    []Extension
	out                        Runtime
	digests, keyrings, buffers tableBuilder
	patterns                   []string
}

func (c *runtimeCompiler) root() error {
	required := []string{"meta", "release", "digests", "excludes", "keyrings", "ima", "ima-buf", "verification-keys"}
	err := c.object(0, required, func(name string) error {
		switch name {
		case "meta":
			return c.meta()
		case "release":
			return c.integer(1, 0, math.MaxInt64, new(int))
		case "digests":
			return c.entries("digests", &c.digests)
		case "excludes":
			return c.strings(1, func(s string) { c.patterns = append(c.patterns, strings.Clone(s)) })
		case "keyrings":
			return c.entries("keyrings", &c.keyrings)
		case "ima":
			return c.ima()
		case "ima-buf":
			return c.entries("ima-buf", &c.buffers)
		case "verification-keys":
			return c.string(1, c.readKeys)
		}
		return c.r.Skip()
	})
	if err != nil {
		return err
	}
	return c.r.End()
}

func (c *runtimeCompiler) meta() error {
	return c.object(1, []string{"version", "generator"}, func(name string) error {
		switch name {
		case "version":
			return c.integer(2, 0, math.MaxInt64, new(int))
		case "generator":
			return c.integer(2, 0, GeneratorLegacy, &c.out.generator)
		case "timestamp":
			return c.string(2, func(string) {})
		}
		return c.r.Skip()
	})
}

func (c *runtimeCompiler) ima() error {
	return c.object(1, []string{"ignored_keyrings", "log_hash_alg", "dm_policy"}, func(name string) error {
		switch name {
		case "ignored_keyrings":
			return c.strings(2, func(s string) {
				c.out.ignoredKeyrings = append(c.out.ignoredKeyrings, strings.Clone(s))
			})
		case "log_hash_alg":
			return c.logHashAlg()
		case "dm_policy":
			if c.r.Kind() != strictjson.Null {
				return c.deviceMapper()
			}
		}
		return c.r.Skip()
	})
}

// deviceMapper compiles "dm_policy".
func (c *runtimeCompiler) deviceMapper() error {
	if !slices.Contains(c.allowed, DMPolicy) || c.r.Kind() != strictjson.Object {
		return c.wrongType(2, "null")
	}
	raw, err := c.r.Raw()
	if err != nil {
		return err
	}
	if c.out.deviceMapper, err = compileDeviceMapper(raw); err != nil {
		c.violation(2, "dm_policy: %v", err)
	}
	return nil
}

func (c *runtimeCompiler) logHashAlg() error {
	raw, err := c.r.Raw()
	if err != nil {
		return err
	}
	for _, h := range []tpm.Hash{tpm.SHA1, tpm.SHA256, tpm.SHA384, tpm.SHA512} {
		if raw == strconv.Quote(h.String()) {
			c.out.logHash = h
			return nil
		}
	}
	c.violation(2, "%s is not one of ['sha1', 'sha256', 'sha384', 'sha512']", pythonLiteral(raw))
	return nil
}

// entries reads a table: an object of name to list of digests.
func (c *runtimeCompiler) entries(table string, into *tableBuilder) error {
	defer func() { c.table, c.entry = "", "" }()
	return c.object(1, nil, func(name string) error {
		c.table, c.entry = table, name
		into.name(name)
		if c.r.Kind() != strictjson.Array {
			return c.wrongType(2, "array")
		}
		empty := true
		err := c.r.Array(func() error {
			empty = false
			return c.string(3, func(s string) {
				if !into.digest(s) {
					c.violation(3, "%s does not match '%s'", pythonString(s), digestForm)
				}
			})
		})
		if empty {
			c.violation(2, "[] should be non-empty")
		}
		return err
	})
}

// readKeys compiles the keyring in "verification-keys".
func (c *runtimeCompiler) readKeys(text string) {
	if text == "" {
		return
	}
	inner := schema{r: strictjson.NewReader(text, maxDepth)}
	err := inner.object(0, []string{"keyids", "pubkeys"}, func(name string) error {
		switch name {
		case "meta":
			return inner.object(1, []string{"version"}, func(name string) error {
				if name == "version" {
					return inner.integer(2, 1, math.MaxInt64, new(int))
				}
				return inner.r.Skip()
			})
		case "keyids":
			return inner.array(1, func() error { return inner.integer(2, math.MinInt64, math.MaxInt64, new(int)) })
		case "pubkeys":
			return inner.strings(1, func(string) {})
		}
		return inner.r.Skip()
	})
	if err == nil {
		err = inner.r.End()
	}
	// Looked at after everything else: any violation of the schema proper is reported before it.
	const depth = 100
	switch {
	case err != nil:
		c.violation(depth, "verification-keys: %v", err)
	case inner.fault != "":
		c.violation(depth, "%s", inner.fault)
	default:
		if c.out.keys, c.out.unusableKeys, err = ima.ParseKeyring(text); err != nil {
			c.violation(depth, "verification-keys: %v", err)
		}
	}
}

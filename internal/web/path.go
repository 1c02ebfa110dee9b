package web

import (
	"net/url"
	"slices"
	"strings"
)

// split cuts an escaped path into its segments and decodes each. Names are compared and checked after decoding, so
// that every spelling of a path gets the same decision; clean is false for a path that is no plain list of segments,
// which no route matches. Dots have no meaning: ".." is a segment like any other, and no valid id.
func split(path string) (segments []string, clean bool) {
	rest, ok := strings.CutPrefix(path, "/")
	if !ok {
		return nil, false
	}
	if rest == "" {
		return nil, true
	}
	for s := range strings.SplitSeq(rest, "/") {
		if s == "" { // agents double the slash after a verifier_url that ends with one
			continue
		}
		decoded, err := url.PathUnescape(s)
		if err != nil {
			return segments, false
		}
		segments = append(segments, decoded)
	}
	return segments, true
}

// match compares the segments of a pattern with those of a path.
func (rt *Router) match(pattern, path []string) (params map[string]string, ok bool) {
	if len(pattern) != len(path) {
		return nil, false
	}
	for i, p := range pattern {
		name, isName := strings.CutPrefix(p, "{")
		if !isName {
			if p != path[i] {
				return nil, false
			}
			continue
		}
		name, value := strings.TrimSuffix(name, "}"), path[i]
		switch name {
		case "version":
			value, ok = version(value, rt.opts.Versions, rt.opts.Major)
		case "v3":
			value, ok = version(value, rt.opts.V3, true)
		default:
			ok = true
		}
		if !ok {
			return nil, false
		}
		if params == nil {
			params = make(map[string]string, 2)
		}
		params[name] = value
	}
	return params, true
}

// version reads the segment "v2.6", and with major "v2", which is the newest.
func version(segment string, served []string, major bool) (string, bool) {
	asked, ok := strings.CutPrefix(segment, "v")
	if !ok || len(served) == 0 {
		return "", false
	}
	newest := served[len(served)-1]
	if number, _, _ := strings.Cut(newest, "."); major && asked == number {
		return newest, true
	}
	return asked, slices.Contains(served, asked)
}

package web

import (
	"net/url"
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
	segments = strings.Split(strings.TrimSuffix(rest, "/"), "/")
	for i, s := range segments {
		decoded, err := url.PathUnescape(s)
		if err != nil || decoded == "" {
			return segments, false
		}
		segments[i] = decoded
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
		if name == "version" {
			if value, ok = rt.version(value); !ok {
				return nil, false
			}
		}
		if params == nil {
			params = make(map[string]string, 2)
		}
		params[name] = value
	}
	return params, true
}

// version reads the segment "v2.6", and "v2" where that is served.
func (rt *Router) version(segment string) (string, bool) {
	asked, ok := strings.CutPrefix(segment, "v")
	if !ok || len(rt.opts.Versions) == 0 {
		return "", false
	}
	newest := rt.opts.Versions[len(rt.opts.Versions)-1]
	if major, _, _ := strings.Cut(newest, "."); rt.opts.Major && asked == major {
		return newest, true
	}
	for _, v := range rt.opts.Versions {
		if v == asked {
			return v, true
		}
	}
	return "", false
}

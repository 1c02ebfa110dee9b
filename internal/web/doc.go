// Package web is what every HTTP server of Keylime shares: routes, authorisation of administrators, limits, the
// answer's envelope, errors, one log line per request, and a listener that half-open connections cannot fill.
//
// Handlers take a Request and return results or an error; they see no http.ResponseWriter. Everything here is safe
// for concurrent use once its routes are in place.
package web

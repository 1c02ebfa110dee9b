// Package pki holds what Keylime needs of X.509 and TLS: the CA directory that its roles share, TLS settings for
// servers and clients, and the check of endorsement key certificates against a store of vendors' certificates.
package pki

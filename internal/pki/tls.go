package pki

import "crypto/tls"

// ServerFiles are the files of a TLS listener, PEM.
type ServerFiles struct {
	CertFile, KeyFile string
	KeyPassword       string   // of an encrypted key; "" = none
	ClientCAs         []string // files with the CA certificates of administrators
}

// ClientFiles are the files of a TLS client, PEM.
type ClientFiles struct {
	CertFile, KeyFile string   // both empty = no client certificate
	KeyPassword       string   // of an encrypted key; "" = none
	ServerCAs         []string // files with the CA certificates of servers; no others are trusted
	VerifyHostname    string   // on, off, or auto ("" too): on when the certificate carries names
}

// ServerTLS makes the settings of a listener: TLS 1.2 or later, a client certificate is optional but must chain to
// ClientCAs when given. What a client may do is for PeerRole to say.
func ServerTLS(f ServerFiles) (*tls.Config, error) { panic("unimplemented") }

// ClientTLS makes the settings for talking to servers whose certificates chain to ServerCAs.
func ClientTLS(f ClientFiles) (*tls.Config, error) { panic("unimplemented") }

// PinnedClient makes the settings for talking to one agent: the server's certificate must be agentCertPEM's, byte for
// byte; its dates and names are of no account. base gives the client certificate.
func PinnedClient(base *tls.Config, agentCertPEM string) (*tls.Config, error) {
	panic("unimplemented")
}

package main

import (
	"crypto/tls"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"time"
)

// webhook is where the operator's other systems would listen for revocations.
type webhook struct {
	srv  *http.Server
	told chan revocation
}

// revocation is the part of a revocation message that the demo shows.
type revocation struct {
	Type    string `json:"type"`
	AgentID string `json:"agent_id"`
	EventID string `json:"event_id"`
	Context string `json:"context"`
}

// startWebhook serves it with the certificate of the verifier's own server, which the verifier trusts.
func startWebhook(port int, certFile, keyFile string) (*webhook, error) {
	pair, err := tls.LoadX509KeyPair(certFile, keyFile)
	if err != nil {
		return nil, err
	}
	ln, err := tls.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", port), &tls.Config{Certificates: []tls.Certificate{pair}})
	if err != nil {
		return nil, err
	}
	h := &webhook{told: make(chan revocation, 16)}
	h.srv = &http.Server{Handler: http.HandlerFunc(h.receive), ReadHeaderTimeout: 5 * time.Second}
	go func() { _ = h.srv.Serve(ln) }()
	return h, nil
}

func (h *webhook) receive(rw http.ResponseWriter, r *http.Request) {
	var wrapper struct{ Msg, Signature string }
	var msg revocation
	err := json.NewDecoder(io.LimitReader(r.Body, 1<<20)).Decode(&wrapper)
	if err == nil {
		err = json.Unmarshal([]byte(wrapper.Msg), &msg)
	}
	if err != nil {
		http.Error(rw, err.Error(), http.StatusBadRequest)
		return
	}
	h.told <- msg
}

func (h *webhook) close() { _ = h.srv.Close() }

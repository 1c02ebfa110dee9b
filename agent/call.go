package agent

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"path/filepath"
	"time"

	"keylime/internal/api"
	"keylime/internal/config"
	"keylime/internal/pki"
)

// call attests by calling verifiers until ctx ends, or once.
func (a *agent) call(ctx context.Context) error {
	c, err := a.newCaller(ctx)
	if err != nil {
		return err
	}
	if a.cfg.Once != nil {
		c.interval, c.retry = min(c.interval, hastyInterval), hasty
		verdict, err := c.once(ctx)
		if err == nil {
			a.cfg.Once(verdict)
		}
		return err
	}
	revoker, payloads := a.newDeputies()
	box := &mailbox{agentID: a.id, unseal: a.activate, deliver: payloads.submit}
	c.payload, c.notice = box.open, revoker.submit
	if c.memory, err = readCallMemory(filepath.Join(a.cfg.KeylimeDir, callMemoryFile), c.witness.boot.id); err != nil {
		return err
	}
	if !payloads.present() {
		c.memory.Payloads = nil // they are fetched anew
	}

	defer start(ctx, revoker.run, payloads.run)()
	a.log.Info().Strs("verifiers", a.cfg.Calling.VerifierURLs).Msg("agent calls its verifiers and listens to nobody")
	return c.run(ctx)
}

func (a *agent) newCaller(ctx context.Context) (*caller, error) {
	banks, err := a.tpm.Banks(ctx)
	if err != nil {
		return nil, err
	}
	boot, err := bootClock{
		stat: "/proc/stat", bootID: "/proc/sys/kernel/random/boot_id", keep: filepath.Join(a.cfg.KeylimeDir, bootTimeFile),
	}.read()
	if err != nil {
		return nil, err
	}
	client, err := a.verifierHTTP()
	if err != nil {
		return nil, err
	}
	calling := a.cfg.Calling
	c := &caller{
		agentID: a.id, interval: calling.Interval, retry: a.backoff(), log: a.log, now: time.Now,
		witness: &witness{
			attester: a.attester, logs: a.logs, banks: banks, boot: boot,
			keyName: calling.KeyIdentifier, uefiForm: calling.BootLogVersion,
		},
	}
	for _, base := range calling.VerifierURLs {
		c.verifiers = append(c.verifiers, api.NewPush(base, client))
	}
	return c, nil
}

// verifierHTTP is the client that verifiers are called with: it knows them by their CA, and shows no certificate.
func (a *agent) verifierHTTP() (_ *http.Client, err error) {
	calling := a.cfg.Calling
	transport := &http.Transport{IdleConnTimeout: 5 * time.Minute, MaxIdleConnsPerHost: 1}
	if transport.Proxy, err = proxies(calling.VerifierProxy); err != nil {
		return nil, err
	}
	if transport.TLSClientConfig, err = verifierTLS(calling); err != nil {
		return nil, fmt.Errorf("verifier_tls_ca_cert: %w", err)
	}
	return &http.Client{Timeout: calling.RequestTimeout, Transport: transport}, nil
}

// proxies says which proxy a request takes: the configured one, or that of HTTPS_PROXY and NO_PROXY. What is not
// encrypted is for this machine itself, and takes none.
func proxies(configured config.Secret) (func(*http.Request) (*url.URL, error), error) {
	find := http.ProxyFromEnvironment
	if configured != "" {
		proxy, err := url.Parse(string(configured))
		if err != nil {
			return nil, errors.New("verifier_proxy is no URL") // it may hold a password
		}
		find = http.ProxyURL(proxy)
	}
	return func(r *http.Request) (*url.URL, error) {
		if r.URL.Scheme != "https" {
			return nil, nil
		}
		return find(r)
	}, nil
}

// verifierTLS trusts the verifiers' CAs, unless a test asks for less.
func verifierTLS(c config.Calling) (*tls.Config, error) {
	if c.AcceptAnyCert {
		return &tls.Config{MinVersion: tls.VersionTLS12, InsecureSkipVerify: true}, nil
	}
	files := pki.ClientFiles{ServerCAs: c.VerifierCAs}
	if c.AcceptAnyHost {
		files.VerifyHostname = pki.NameOff
	}
	return pki.ClientTLS(files)
}

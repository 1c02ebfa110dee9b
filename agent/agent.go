package agent

import (
	"context"
	"crypto/rand"
	"crypto/tls"
	"errors"
	"fmt"
	"io/fs"
	"math"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/rs/zerolog"

	"keylime/internal/api"
	"keylime/internal/config"
	"keylime/internal/pki"
	"keylime/internal/web"
	"keylime/tpm"
	"keylime/tpm/device"
)

// Config is what the agent runs with.
type Config struct {
	config.Agent
	TCTI     string       // the TPM, as device.Open names it; "" = the kernel's
	Listener net.Listener // where requests come in; nil = listen on IP and Port once registered

	// Push has the agent call its verifiers instead of listening.
	Push bool
	// Once, unless nil, has it attest once, and is told what came of it; Run then returns.
	Once func(Verdict)
}

// agent is a running agent, as far as it has come.
type agent struct {
	cfg Config
	log zerolog.Logger

	id        string
	versions  []string
	mtlsCert  string      // PEM, or "disabled"
	tls       *tls.Config // nil = plain HTTP
	logs      bootLogs
	secure    secureDir
	dropped   bool // root was given up
	tpm       *device.TPM
	ek        *device.EK
	ekHash    string // see ekHash
	attester  *attester
	transport *transportKey
}

// Run registers the agent and serves until ctx ends; it then returns nil. Before it returns it closes the TPM and
// unmounts the secure directory if it mounted it and still may.
func Run(ctx context.Context, cfg Config, log zerolog.Logger) (err error) {
	a := &agent{cfg: cfg, log: log}
	defer func() {
		if stopped := ctx.Err() != nil && errors.Is(err, context.Cause(ctx)); stopped {
			err = nil
		}
		err = errors.Join(err, a.close())
	}()
	for _, step := range a.steps() {
		if err := step(ctx); err != nil {
			return err
		}
	}
	return nil
}

// steps are what an agent does from its start on.
func (a *agent) steps() []func(context.Context) error {
	if a.cfg.Push {
		return []func(context.Context) error{a.prepare, a.openTPM, a.identify, a.register, a.call}
	}
	return []func(context.Context) error{a.prepare, a.openTPM, a.identify, a.openKeys, a.register, a.serve}
}

// prepare does what needs root, and gives it up.
func (a *agent) prepare(context.Context) error {
	if err := checkConfig(a.cfg); err != nil {
		return err
	}
	owner := currentIdentity()
	drop := a.cfg.RunAs != "" && os.Geteuid() == 0
	if drop {
		var err error
		if owner, err = parseRunAs(a.cfg.RunAs); err != nil {
			return err
		}
	}
	a.logs = openLogs(a.cfg.IMAMLPath, a.cfg.MeasuredBootMLPath, a.log)
	var err error
	if a.cfg.Once != nil {
		// A single attestation takes no payload: there is nothing to keep safe.
	} else if a.secure, err = openSecureDir(filepath.Join(a.cfg.KeylimeDir, "secure"), a.cfg.SecureSize, owner); err != nil {
		return err
	}
	if a.cfg.UUID, err = replaceDMI(a.cfg.UUID, productUUID); err != nil {
		return err
	}
	if !drop {
		if os.Geteuid() == 0 {
			a.log.Warn().Msg("running as root: set run_as to a user of its own")
		}
		return nil
	}
	if err := owner.drop(); err != nil {
		return fmt.Errorf("run as %s: %w", a.cfg.RunAs, err)
	}
	a.dropped = true
	a.log.Info().Str("run_as", a.cfg.RunAs).Msg("root privileges dropped")
	return nil
}

// checkConfig refuses what cannot work or must not.
func checkConfig(cfg Config) error {
	if !cfg.Push && !cfg.EnableAgentMTLS && cfg.PayloadScript != "" && !cfg.EnableInsecurePayload {
		return errors.New("agent mTLS is disabled, so anybody could send a payload: to run its script all the same 'enable_insecure_payload' has to be set to 'True', or else set payload_script to nothing")
	}
	if cfg.EncKeyname == cfg.DecPayloadFile {
		return fmt.Errorf("enc_keyname and dec_payload_file are both %q: name two files", cfg.EncKeyname)
	}
	info, err := os.Stat(cfg.KeylimeDir)
	if err != nil {
		return fmt.Errorf("keylime_dir must exist: %w", err)
	}
	if !info.IsDir() {
		return fmt.Errorf("keylime_dir %s is no directory", cfg.KeylimeDir)
	}
	return nil
}

// openTPM opens the TPM with its EK and the AK of the start before, or a new one.
func (a *agent) openTPM(ctx context.Context) (err error) {
	if a.tpm, err = device.Open(ctx, findTPM(a.cfg.TCTI)); err != nil {
		return err
	}
	options, err := ekOptions(a.cfg.Agent)
	if err != nil {
		return err
	}
	if a.ek, err = a.tpm.CreateEK(ctx, options); err != nil {
		return err
	}
	bank, err := tpm.ParseHash(a.cfg.TPMHashAlg)
	if err != nil {
		return fmt.Errorf("tpm_hash_alg: %w", err)
	}
	if a.ekHash, err = ekHash(a.ek.Public); err != nil {
		return err
	}
	a.attester = &attester{tpm: a.tpm, ek: options, bank: bank, log: a.log}
	return a.openAK(ctx, akIdentity{hash: bank, scheme: a.cfg.TPMSigningAlg, ekHash: a.ekHash})
}

// openAK loads the kept AK. When there is none, or it is damaged or of another TPM, it makes a new one; the registrar
// then decides whether this machine may have it.
func (a *agent) openAK(ctx context.Context, id akIdentity) error {
	blob, err := loadAgentData(a.cfg.AgentDataPath, id)
	if err == nil {
		a.attester.blob = blob
		if err = a.attester.load(ctx, a.ek); err == nil {
			return nil
		}
		if !errors.Is(err, device.ErrForeignAK) {
			return err
		}
	}
	if errors.Is(err, fs.ErrNotExist) {
		a.log.Info().Msg("creating the attestation key")
	} else {
		a.log.Warn().Err(err).Msg("the kept attestation key cannot be used: creating another, which a registrar that knows this agent will refuse")
	}
	if a.attester.blob, err = a.tpm.CreateAK(ctx, a.ek, id.hash, id.scheme, a.cfg.TPMEncryptionAlg); err != nil {
		return err
	}
	if err := a.attester.load(ctx, a.ek); err != nil {
		return err
	}
	return saveAgentData(a.cfg.AgentDataPath, id, a.attester.blob)
}

func (a *agent) identify(ctx context.Context) (err error) {
	a.id, err = resolveID(ctx, a.cfg.UUID, idSources{
		ekHash: a.ekHash, random: rand.Reader, keep: filepath.Join(a.cfg.KeylimeDir, generatedID), fqdn: fullHostname,
	})
	if err != nil {
		return err
	}
	a.log = a.log.With().Str("agent", a.id).Logger()
	a.versions = spokenVersions("api_versions", a.cfg.APIVersions, a.log)
	return nil
}

// openKeys opens or makes the transport key and the TLS certificate, and tries a quote that binds the former.
func (a *agent) openKeys(ctx context.Context) (err error) {
	if a.transport, err = openTransportKey(a.cfg.PayloadKey, string(a.cfg.PayloadKeyPassword)); err != nil {
		return err
	}
	a.attester.bind(a.transport.public)
	if err := a.attester.checkDataPCR(ctx, a.transport.public); err != nil {
		return err
	}
	a.mtlsCert = "disabled"
	if !a.cfg.EnableAgentMTLS {
		a.log.Warn().Msg("mTLS disabled: everybody who reaches this agent may ask it for quotes")
		return nil
	}
	certificate := serverCertificate{
		keyFile: a.cfg.ServerKey, certFile: a.cfg.ServerCert, password: string(a.cfg.ServerKeyPassword),
		agentID: a.id, hosts: certificateHosts(a.cfg.ContactIP, a.cfg.IP),
	}
	if a.mtlsCert, err = certificate.open(time.Now(), a.log); err != nil {
		return err
	}
	a.tls, err = a.mutualTLS()
	return err
}

func (a *agent) register(ctx context.Context) error {
	mtlsCert := a.mtlsCert
	if a.cfg.Push {
		mtlsCert = "disabled"
	}
	request, err := registerRequest(a.ek, a.attester.loaded(), a.cfg.ContactIP, a.cfg.ContactPort, mtlsCert)
	if err != nil {
		return err
	}
	transport := &http.Transport{DisableKeepAlives: true}
	if a.cfg.Calling.RegistrarTLS { // without TLS, no proxy: the registrar is in the operator's network
		if transport.TLSClientConfig, err = pki.ClientTLS(pki.ClientFiles{ServerCAs: a.cfg.Calling.RegistrarCAs}); err != nil {
			return fmt.Errorf("registrar_tls_ca_cert: %w", err)
		}
		if transport.Proxy, err = proxies(a.cfg.Calling.VerifierProxy); err != nil {
			return err
		}
	}
	err = registration{
		client:   api.NewRegistrar(api.URL(a.cfg.RegistrarAddress()), &http.Client{Timeout: registrarTimeout, Transport: transport}),
		agentID:  a.id,
		versions: spokenVersions("registrar_api_versions", a.cfg.Calling.RegistrarVersions, a.log),
		request:  request,
		activate: a.activate,
		retry:    a.registrationRetry(),
		log:      a.log,
	}.run(ctx)
	if a.cfg.Once != nil && err != nil && ctx.Err() == nil && passing(err) {
		a.log.Warn().Err(err).Msg("registrar cannot be reached: attesting as what was registered before")
		return nil
	}
	return err
}

// registrationRetry says how long a registrar is waited for: by an agent that calls, for as long as it takes; by one that
// attests once, hardly.
func (a *agent) registrationRetry() backoff {
	retry := a.backoff()
	switch {
	case a.cfg.Once != nil:
		retry = hasty
		retry.retries = 1
	case a.cfg.Push:
		retry.retries = math.MaxInt
	}
	return retry
}

// activate opens a credential that was made for this TPM's EK and AK.
func (a *agent) activate(ctx context.Context, blob []byte) ([]byte, error) {
	return a.tpm.ActivateCredential(ctx, a.ek, a.attester.loaded(), blob)
}

// serve answers requests and carries out what they ask for until ctx ends.
func (a *agent) serve(ctx context.Context) error {
	revoker, payloads := a.newDeputies()
	access := web.Admin
	if !a.cfg.EnableAgentMTLS {
		access = web.Public
	}
	server := &server{
		access: access, agentID: a.id, versions: a.versions, ak: a.attester.loaded().Public, bank: a.attester.bank,
		attester: a.attester, logs: a.logs, transport: a.transport, bootstrap: newBootstrap(a.id),
		deliver: payloads.submit, revoke: revoker.submit, streams: make(chan struct{}, maxListStreams), log: a.log,
	}
	workers := []func(context.Context){revoker.run, payloads.run}
	if a.cfg.EnableRevocationNotifications {
		workers = append(workers, a.subscription(revoker).run)
	}
	defer start(ctx, workers...)()
	return a.listen(ctx, server.handler())
}

// newDeputies makes those who carry out what peers send, however it comes.
func (a *agent) newDeputies() (*revoker, *payloads) {
	revoker := a.newRevoker()
	if err := revoker.loadSigner(); err != nil {
		a.log.Warn().Err(err).Msg("revocations are ignored until a payload brings another certificate")
	}
	return revoker, a.newPayloads(revoker)
}

// start runs workers until stop is called, which waits for their end.
func start(ctx context.Context, workers ...func(context.Context)) (stop func()) {
	ctx, cancel := context.WithCancel(ctx)
	var group sync.WaitGroup
	for _, run := range workers {
		group.Go(func() { run(ctx) })
	}
	return func() {
		cancel()
		group.Wait()
	}
}

func (a *agent) newRevoker() *revoker {
	unpacked := filepath.Join(a.secure.path, unpackedDir)
	dirs := []string{a.cfg.RevocationActionsDir}
	if a.cfg.AllowPayloadRevocationActions {
		dirs = append(dirs, unpacked)
	}
	return &revoker{
		certFile: a.cfg.RevocationCert, configured: a.cfg.RevocationActions, dirs: dirs, unpacked: unpacked,
		workDir: a.cfg.KeylimeDir, agentID: a.id, log: a.log,
		payloadFiles: new(sync.RWMutex), queue: make(chan api.Notification, maxRevocations), seen: digests{max: maxSeen},
	}
}

func (a *agent) subscription(r *revoker) subscription {
	port := strconv.Itoa(a.cfg.RevocationNotificationPort)
	return subscription{
		address: net.JoinHostPort(strings.Trim(a.cfg.RevocationNotificationIP, "[]"), port), submit: r.submit,
		retry: a.backoff(), log: a.log,
	}
}

func (a *agent) backoff() backoff {
	return backoff{first: a.cfg.BackoffInitialDelay, longest: a.cfg.BackoffMaxDelay, retries: a.cfg.BackoffMaxRetries}
}

func (a *agent) newPayloads(r *revoker) *payloads {
	return &payloads{
		installer: installer{
			secure: a.secure.path, keyName: a.cfg.EncKeyname, payloadName: a.cfg.DecPayloadFile,
			extract: a.cfg.ExtractPayloadZip, log: a.log,
		},
		script: a.cfg.PayloadScript, enabled: a.cfg.Push || a.cfg.EnableAgentMTLS || a.cfg.EnableInsecurePayload,
		revoker: r, agentID: a.id, log: a.log, queue: make(chan delivery, 1),
	}
}

// close gives back what the steps took.
func (a *agent) close() error {
	var err error
	if a.tpm != nil {
		err = a.tpm.Close()
	}
	a.logs.close()
	if a.dropped {
		return err // an unprivileged process cannot unmount; the next start uses the mount again
	}
	if err := a.secure.close(); err != nil {
		a.log.Warn().Err(err).Msg("the secure directory stays mounted, with what is in it: a program may still work there")
	}
	return err
}

// spokenVersions reads an option that lists API versions: default (all), latest, or a list.
func spokenVersions(name, option string, log zerolog.Logger) []string {
	all := api.AgentVersions
	switch option {
	case "", "default":
		return all
	case "latest":
		return all[len(all)-1:]
	}
	var spoken []string
	for _, version := range splitNames(option) {
		if slices.Contains(all, version) {
			spoken = append(spoken, version)
		} else {
			log.Warn().Str("option", name).Str("version", version).Msg("a version is listed that this agent does not speak")
		}
	}
	if spoken == nil {
		log.Warn().Str("option", name).Str("value", option).Msg("no version is left: all are spoken")
		return all
	}
	slices.Sort(spoken) // one digit on each side of the point
	return slices.Compact(spoken)
}

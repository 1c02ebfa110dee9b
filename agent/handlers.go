package agent

import (
	"context"
	"crypto/sha512"
	"encoding/hex"
	"net/http"
	"strconv"

	"keylime/internal/api"
	"keylime/internal/web"
	"keylime/tpm"
)

// noHandle is TPM_RH_NULL. The AK is loaded for each command and has no handle in between; the field is for people.
const noHandle = 0x40000007

func (s *server) info(_ context.Context, r *web.Request) (any, error) {
	if api.Newer("2.2", r.Version) {
		return nil, unknownResource(http.MethodGet)
	}
	return api.AgentInfo{
		AgentUUID: s.agentID, HashAlg: s.bank.String(), EncAlg: encAlg(s.ak, r.Version), SignAlg: s.ak.SignAlg(), AKHandle: noHandle,
	}, nil
}

func (s *server) pubKey(context.Context, *web.Request) (any, error) {
	return api.AgentPubKey{PubKey: s.transport.public}, nil
}

// uKey takes the tenant's share of the bootstrap key, and perhaps a payload.
func (s *server) uKey(_ context.Context, r *web.Request) (any, error) {
	fields, err := readFields(r, []string{"auth_tag", "encrypted_key"}, []string{"payload"})
	if err != nil {
		return nil, err
	}
	sealed := fields["encrypted_key"]
	share, err := s.openShare(sealed)
	if err != nil {
		return nil, err
	}
	tag, err := hex.DecodeString(fields["auth_tag"])
	if err != nil || len(tag) != sha512.Size384 {
		return nil, badRequest("auth_tag must be %d hex digits", 2*sha512.Size384)
	}
	done, err := s.bootstrap.addU(uShare{sealed: sealed, u: share, tag: tag, payload: fields["payload"]})
	if err != nil {
		s.log.Warn().Str("audit", "bootstrap").Str("client", r.Admin).Msg("replayed key share refused")
		return nil, badRequest("%v", err)
	}
	s.joined(done, r.Admin)
	return null(), nil
}

// vKey takes the verifier's share.
func (s *server) vKey(_ context.Context, r *web.Request) (any, error) {
	fields, err := readFields(r, []string{"encrypted_key"}, nil)
	if err != nil {
		return nil, err
	}
	sealed := fields["encrypted_key"]
	share, err := s.openShare(sealed)
	if err != nil {
		return nil, err
	}
	s.joined(s.bootstrap.addV(vShare{sealed: sealed, v: share}), r.Admin)
	return null(), nil
}

// openShare decrypts a key share.
func (s *server) openShare(text string) ([]byte, error) {
	sealed, err := decodeBase64(text)
	if err != nil {
		return nil, badRequest("encrypted_key: %v", err)
	}
	share, err := s.transport.open(sealed)
	if err != nil {
		return nil, badRequest("Failed to decrypt encrypted_key: Crypto error: RSA OAEP decrypt error: failed to decrypt data with RSA OAEP")
	}
	if err := checkShare(share); err != nil {
		return nil, badRequest("encrypted_key: %v", err)
	}
	return share, nil
}

// joined hands on what two shares opened; done is nil when none fit.
func (s *server) joined(done *delivery, client string) {
	if done == nil {
		us, vs := s.bootstrap.waiting()
		s.log.Info().Str("client", client).Int("u_waiting", us).Int("v_waiting", vs).Msg("key share received")
		return
	}
	s.log.Info().Str("audit", "bootstrap").Str("client", client).Bool("payload", done.payload != "").Msg("bootstrap key derived")
	s.deliver(*done)
}

// verifyKey proves that this agent has the bootstrap key.
func (s *server) verifyKey(_ context.Context, r *web.Request) (any, error) {
	q, err := readQuery(r)
	if err != nil {
		return nil, err
	}
	challenge, err := q.required("challenge")
	if err != nil {
		return nil, err
	}
	if challenge == "" {
		return nil, badRequest("No challenge provided.")
	}
	if challenge, err = q.alphanumeric("challenge"); err != nil {
		return nil, err
	}
	if len(challenge) > maxChallenge {
		return nil, badRequest("challenge is too long (max size %d)", maxChallenge)
	}
	proof, ok := s.bootstrap.prove(challenge)
	if !ok {
		return nil, badRequest("Bootstrap key not yet available.")
	}
	return api.KeyVerify{HMAC: proof}, nil
}

func (s *server) identityQuote(ctx context.Context, r *web.Request) (any, error) {
	q, err := readQuery(r)
	if err != nil {
		return nil, err
	}
	nonce, err := readNonce(q)
	if err != nil {
		return nil, err
	}
	results, err := s.quote(ctx, nonce, 0, r.Version)
	if err != nil {
		return nil, err
	}
	results.PubKey = &s.transport.public
	return results, nil
}

// integrityQuote answers with a quote and the logs that explain its PCRs.
func (s *server) integrityQuote(ctx context.Context, r *web.Request) (any, error) {
	q, err := readQuery(r)
	if err != nil {
		return nil, err
	}
	want, err := readIntegrity(q)
	if err != nil {
		return nil, err
	}
	results, err := s.quote(ctx, want.nonce, want.mask, r.Version)
	if err != nil {
		return nil, err
	}
	if want.withKey {
		results.PubKey = &s.transport.public
	}
	// The logs are read after the quote: they may then hold more than the quote covers, but never less.
	return s.collect(ctx, results, want)
}

// quote makes a quote with its names. A failure is the TPM's, and the verifier comes again.
func (s *server) quote(ctx context.Context, nonce string, mask tpm.Mask, version string) (api.QuoteResults, error) {
	ctx, cancel := context.WithTimeout(ctx, quoteTimeout)
	defer cancel()
	quote, err := s.attester.quote(ctx, nonce, mask)
	if err != nil {
		s.log.Error().Err(err).Msg("quote failed")
		return api.QuoteResults{}, errNoQuote()
	}
	return api.QuoteResults{
		Quote: quote.String(), HashAlg: s.bank.String(), EncAlg: encAlg(s.ak, version), SignAlg: s.ak.SignAlg(),
	}, nil
}

// errNoQuote answers that there is no quote now; the verifier comes again after a 500.
func errNoQuote() error {
	return &web.Error{Code: http.StatusInternalServerError, Msg: "Unable to retrieve quote"}
}

// integrity is what /quotes/integrity asks for.
type integrity struct {
	nonce   string
	mask    tpm.Mask
	withKey bool
	entry   uint64
}

func readIntegrity(q query) (integrity, error) {
	nonce, err := readNonce(q)
	if err != nil {
		return integrity{}, err
	}
	maskText, err := q.alphanumeric("mask")
	if err != nil {
		return integrity{}, err
	}
	mask, err := tpm.ParseMask(maskText)
	if err != nil {
		return integrity{}, badRequest("mask should be a hex encoded 32-bit integer: %s", maskText)
	}
	partial, err := q.required("partial")
	if err != nil {
		return integrity{}, err
	}
	if partial != "0" && partial != "1" {
		return integrity{}, badRequest("uri must contain key 'partial' and value '0' or '1'")
	}
	want := integrity{nonce: nonce, mask: mask, withKey: partial == "0"}
	if first, ok := q["ima_ml_entry"]; ok {
		// What is no number counts as 0 (wire): the verifier then gets the whole list.
		want.entry, _ = strconv.ParseUint(first[0], 10, 64)
	}
	return want, nil
}

func readNonce(q query) (string, error) {
	nonce, err := q.alphanumeric("nonce")
	if err == nil && len(nonce) > maxNonce {
		err = badRequest("Nonce is too long (max size %d): %s", maxNonce, nonce)
	}
	return nonce, err
}

// revocation takes a message to be carried out. The answer says nothing about its signature or its actions.
func (s *server) revocation(_ context.Context, r *web.Request) (any, error) {
	fields, err := readFields(r, []string{"msg", "signature"}, nil)
	if err != nil {
		return nil, err
	}
	if !s.revoke(api.Notification{Msg: fields["msg"], Signature: fields["signature"]}) {
		return nil, &web.Error{Code: http.StatusServiceUnavailable, Msg: "too many revocations wait: send it again later", Retry: actionTimeout}
	}
	return null(), nil
}

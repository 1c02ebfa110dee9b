package store

import (
	"fmt"
	"slices"
	"time"
	"unicode/utf8"
)

// Limits on what is kept, in bytes. They are part of the contract, so that a record that one engine takes is taken by
// every other. They stand well above what the APIs admit: whoever meets one is a program, not a user.
const (
	MaxID           = 80        // agent ids, as upstream's databases
	MaxName         = 255       // policy names and verifier ids
	MaxRegistration = 256 << 10 // one registration, all fields together
	MaxSpec         = 1 << 20   // one enrolment
	MaxStatus       = 256 << 10 // one agent's status
	MaxState        = 1 << 20   // one attest.State, encoded
	MaxPolicy       = 128 << 20 // one policy's text
	MaxPolicyKeys   = 64 << 10  // the keys that one policy is signed with
	MaxMessage      = 1 << 20   // one event
	MaxSecret       = 128       // nonces of offers, and hashes of tokens
)

// Time returns t as stores keep it.
func Time(t time.Time) time.Time { return t.UTC().Truncate(time.Microsecond) }

// Check returns ErrInvalid or ErrTooLarge, wrapped, when r cannot be kept.
func (r Registration) Check() error {
	n := tally{}
	n.text(r.IP, r.MTLSCert, r.Challenge)
	i := r.Identity
	n.data(i.EKTPM, i.AIKTPM, i.EKCert, i.IAKTPM, i.IDevIDTPM, i.IAKCert, i.IDevIDCert)
	n.data(i.EKChain...)
	return first(checkID(r.ID), n.check(MaxRegistration, "registration of %q", r.ID))
}

// Check returns ErrInvalid or ErrTooLarge, wrapped, when a cannot be kept.
func (a Agent) Check() error {
	s, n := a.Spec, tally{}
	n.text(s.VerifierID, s.VerifierIP, s.IP, s.TPMPolicy, s.Metadata, s.RuntimePolicy, s.MeasuredBootPolicy, s.PCRPolicy,
		s.IMAKeyring, s.RevocationKey, s.MTLSCert)
	n.text(s.AcceptHash...)
	n.text(s.AcceptEnc...)
	n.text(s.AcceptSign...)
	n.data(s.V, s.AKTPM)
	return first(checkID(a.ID), checkName("verifier id", s.VerifierID), n.check(MaxSpec, "enrolment of %q", a.ID),
		Round{Status: a.Status, State: a.State}.Check(a.ID))
}

// Check returns ErrInvalid or ErrTooLarge, wrapped, when r cannot be kept for the agent.
func (r Round) Check(agentID string) error {
	s, n := r.Status, tally{}
	n.text(s.APIVersion, s.PubKey, s.HashAlg, s.EncAlg, s.SignAlg, s.LastEventID, s.LastFailure, s.RuntimePolicyDigest,
		s.MeasuredBootPolicyDigest, s.PCRPolicyDigest, s.Run)
	state := tally{}
	state.data(r.State.PCR10)
	for name, keyring := range r.State.Keyrings {
		state.text(name, keyring)
	}
	if dm := r.State.DeviceMapper; dm != nil {
		state.text(dm.Policy)
		for name, d := range dm.Devices {
			state.text(name, d.Table, d.Rule)
		}
	}
	err := first(n.check(MaxStatus, "status of %q", agentID), state.check(MaxState, "attestation state of %q", agentID))
	for _, e := range r.Events {
		err = first(err, e.check(agentID))
	}
	if r.Attestation != nil {
		a := *r.Attestation
		a.AgentID = agentID
		err = first(err, a.Check())
	}
	return err
}

func (e Event) check(agentID string) error {
	n := tally{}
	n.text(e.Channel, e.Target)
	n.data(e.Message)
	for what, name := range map[string]string{"target": e.Target, "channel": e.Channel} {
		if len(name) > MaxID {
			return fmt.Errorf("event of %q: %s: %w (%d bytes of at most %d)", agentID, what, ErrTooLarge, len(name), MaxID)
		}
	}
	return n.check(MaxMessage, "event of %q", agentID)
}

// Check returns ErrInvalid or ErrTooLarge, wrapped, when p cannot be kept.
func (p Policy) Check() error {
	if !slices.Contains(PolicyKinds(), p.Kind) {
		return fmt.Errorf("policy kind %q: %w", p.Kind, ErrInvalid)
	}
	if p.Name == "" {
		return fmt.Errorf("%s policy without a name: %w", p.Kind, ErrInvalid)
	}
	text, previous, keys := tally{}, tally{}, tally{}
	text.data(p.Text)
	keys.text(p.Keys)
	if p.Previous != nil {
		previous.data(p.Previous.Text)
	}
	return first(checkName("policy name", p.Name), text.check(MaxPolicy, "policy %q", p.Name),
		previous.check(MaxPolicy, "previous text of policy %q", p.Name), keys.check(MaxPolicyKeys, "keys of policy %q", p.Name))
}

func checkID(id string) error {
	switch {
	case id == "":
		return fmt.Errorf("empty agent id: %w", ErrInvalid)
	case len(id) > MaxID:
		return fmt.Errorf("agent id: %w (%d bytes of at most %d)", ErrTooLarge, len(id), MaxID)
	case !utf8.ValidString(id):
		return fmt.Errorf("agent id %q is not UTF-8: %w", id, ErrInvalid)
	}
	return nil
}

func checkName(what, name string) error {
	switch {
	case len(name) > MaxName:
		return fmt.Errorf("%s: %w (%d bytes of at most %d)", what, ErrTooLarge, len(name), MaxName)
	case !utf8.ValidString(name):
		return fmt.Errorf("%s %q is not UTF-8: %w", what, name, ErrInvalid)
	}
	return nil
}

// checkTimes refuses times that RFC 3339, and so a record, cannot express. An agent chooses some of them: the end of the
// year 9999 lies beyond it in another time zone.
func checkTimes(what, agentID string, times ...time.Time) error {
	for _, t := range times {
		if year := t.UTC().Year(); year < 0 || year > 9999 {
			return fmt.Errorf("%s of %q: time in the year %d: %w", what, agentID, year, ErrInvalid)
		}
	}
	return nil
}

// tally sums up the fields of a record.
type tally struct {
	size    int
	invalid bool // some text is not UTF-8: not every engine could give it back as it was
}

func (n *tally) text(fields ...string) {
	for _, f := range fields {
		n.size += len(f)
		n.invalid = n.invalid || !utf8.ValidString(f)
	}
}

func (n *tally) data(fields ...[]byte) {
	for _, f := range fields {
		n.size += len(f)
	}
}

func (n *tally) check(limit int, format string, subject string) error {
	switch {
	case n.size > limit:
		return fmt.Errorf(format+": %w (%d bytes of at most %d)", subject, ErrTooLarge, n.size, limit)
	case n.invalid:
		return fmt.Errorf(format+": text that is not UTF-8: %w", subject, ErrInvalid)
	}
	return nil
}

func first(errs ...error) error {
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}

package registrar

import (
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"reflect"
	"strings"
	"testing"
	"time"

	"keylime/internal/api"
	"keylime/internal/fleet"
	"keylime/internal/pki"
	"keylime/store"
)

// notRecorded are fields of a request that prove something and are no part of the record.
var notRecorded = []string{"AgentID", "IAKAttest", "IAKSign"}

// Every field of a request reaches the record, and every field of the record is there because of one.
func TestConversionIsTotal(t *testing.T) {
	t.Parallel()
	req, want := filled(t)
	got, err := registrationFromAPI("agent", req, store.Registration{})
	if err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(got, want) {
		t.Fatalf("decoded %+v\nwant %+v", got, want)
	}
	whole := reflect.ValueOf(req)
	for i := range whole.NumField() {
		name := whole.Type().Field(i).Name
		without := req
		field := reflect.ValueOf(&without).Elem().Field(i)
		field.SetZero()
		got, err := registrationFromAPI("agent", without, store.Registration{})
		if err != nil {
			t.Fatal(err)
		}
		if changed := !reflect.DeepEqual(got, want); changed == strings.Contains(fmt.Sprint(notRecorded), name) {
			t.Errorf("without %s the record changes: %v", name, changed)
		}
		kept, err := registrationFromAPI("agent", without, want)
		if err != nil || !reflect.DeepEqual(kept, want) {
			t.Errorf("%s that is not sent is not kept: %+v, %v", name, kept, err)
		}
	}
	each(reflect.ValueOf(got), "", func(name string, v reflect.Value) {
		if v.IsZero() && !strings.Contains(" .Challenge .RegCount .Rev .Staged .Activated ", name+" ") {
			t.Errorf("%s comes from no field of a request", name)
		}
	})
}

// notShown are fields of the record that the wire has no place for.
var notShown = " .Identity.IAKTPM .Identity.IDevIDTPM .Identity.IAKCert .Identity.IDevIDCert .Challenge .Rev .Staged .Activated "

func TestEveryFieldOfARecordIsShownUnlessListed(t *testing.T) {
	t.Parallel()
	_, r := filled(t)
	r.Challenge, r.RegCount, r.Rev, r.Staged, r.Activated = "secret", 3, 4, time.Now(), time.Now()
	full := agentToAPI(r)
	each(reflect.ValueOf(full), "", func(name string, v reflect.Value) {
		if v.IsZero() && name != ".ProviderKeys" { // only in records of older releases
			t.Errorf("%s is empty", name)
		}
	})
	each(reflect.ValueOf(&r).Elem(), "", func(name string, v reflect.Value) {
		before := reflect.New(v.Type()).Elem()
		before.Set(v)
		v.SetZero()
		if shown := !reflect.DeepEqual(agentToAPI(r), full); shown == strings.Contains(notShown, " "+name+" ") {
			t.Errorf("%s is shown: %v", name, shown)
		}
		v.Set(before)
	})
	if strings.Contains(jsonOf(t, full), "secret") {
		t.Error("the challenge is shown")
	}
}

// each calls f with the name and value of every field, those of nested structs included.
func each(v reflect.Value, prefix string, f func(name string, v reflect.Value)) {
	for i := range v.NumField() {
		name, field := prefix+"."+v.Type().Field(i).Name, v.Field(i)
		if field.Kind() == reflect.Struct && field.Type() != reflect.TypeFor[time.Time]() {
			each(field, name, f)
			continue
		}
		f(name, field)
	}
}

// filled is a request with every field set, each to something else, and the record that it makes.
func filled(t *testing.T) (api.RegisterRequest, store.Registration) {
	t.Helper()
	maker, err := fleet.NewMaker(rand.Reader, time.Now(), time.Now().Add(time.Hour))
	if err != nil {
		t.Fatal(err)
	}
	der := func() []byte {
		c, err := maker.Certify(parse(t, newMachine(t, "").EKPublic()), time.Now(), time.Now().Add(time.Hour))
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	listener, _, err := pki.SelfSigned("agent", []string{"192.0.2.1"}, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	r := store.Registration{ID: "agent", IP: "192.0.2.1", Port: 9002, MTLSCert: string(listener), Identity: store.Identity{
		EKTPM: []byte("ek"), AIKTPM: []byte("ak"), IAKTPM: []byte("iak"), IDevIDTPM: []byte("idevid"),
		EKCert: der(), EKChain: [][]byte{der(), der()}, IAKCert: der(), IDevIDCert: der(),
	}}
	i := r.Identity
	return api.RegisterRequest{
		AgentID: text("agent"), EKTPM: b64(i.EKTPM), AIKTPM: b64(i.AIKTPM), IAKTPM: b64(i.IAKTPM), IDevIDTPM: b64(i.IDevIDTPM),
		EKCert: text(pemOf(i.EKCert, i.EKChain[0], i.EKChain[1])), IAKCert: b64(i.IAKCert), IDevIDCert: b64(i.IDevIDCert),
		IAKAttest: text("AA=="), IAKSign: text("AQ=="), IP: &r.IP, Port: json.RawMessage("9002"), MTLSCert: &r.MTLSCert,
	}, r
}

func TestForms(t *testing.T) {
	t.Parallel()
	for _, sent := range []string{"AQ", "AR==", "*", "AQID===="} {
		if got, err := octets(sent); err == nil {
			t.Errorf("octets(%q) = %x", sent, got)
		}
	}
	for _, sent := range []string{"disabled", "DISABLED", "Disabled"} {
		if got, err := mtlsCert(sent); got != "disabled" || err != nil {
			t.Errorf("mtlsCert(%q) = %q, %v", sent, got, err)
		}
	}
	_, r := filled(t)
	leaf, chain, err := certificates(base64.StdEncoding.EncodeToString(r.Identity.EKCert))
	if err != nil || string(leaf) != string(r.Identity.EKCert) || chain != nil {
		t.Errorf("certificates of base64 DER: %v", err)
	}
}

package tpm_test

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"net/url"
	"testing"

	"keylime/internal/recorded"
	"keylime/tpm"
)

// recordedQuote is one quote of a recorded life and what its verifier asked for.
type recordedQuote struct {
	name     string
	ak       *tpm.Public
	wire     string
	want     tpm.Expected
	pubKey   string // empty when the answer had none
	enc, alg string // as the agent reported them
}

// pullQuotes are the quotes of one recorded pull life, in their order.
func pullQuotes(t testing.TB, life string) []recordedQuote {
	t.Helper()
	ak := mustParse(t, recorded.File(t, "wire/"+life+"/state/ak.tpm2b_public"))
	var list []recordedQuote
	for _, e := range recorded.Glob(t, "wire/"+life+"/*GET*_quotes_*.json") {
		u, err := url.Parse(e.Request.Path)
		if err != nil {
			t.Fatal(err)
		}
		var body struct {
			Results struct {
				Quote   string `json:"quote"`
				HashAlg string `json:"hash_alg"`
				EncAlg  string `json:"enc_alg"`
				SignAlg string `json:"sign_alg"`
				PubKey  string `json:"pubkey"`
			} `json:"results"`
		}
		if err := json.Unmarshal([]byte(e.Response.Body), &body); err != nil {
			t.Fatalf("%s: %v", e.Name, err)
		}
		r := body.Results
		q := recordedQuote{name: e.Name, ak: ak, wire: r.Quote, pubKey: r.PubKey, enc: r.EncAlg, alg: r.SignAlg}
		q.want.Nonce = []byte(u.Query().Get("nonce"))
		if mask := u.Query().Get("mask"); mask != "" {
			if q.want.Mask, err = tpm.ParseMask(mask); err != nil {
				t.Fatalf("%s: %v", e.Name, err)
			}
		}
		q.want.Mask = q.want.Mask.With(tpm.PCRData)
		if q.want.Hash, err = tpm.ParseHash(r.HashAlg); err != nil {
			t.Fatalf("%s: %v", e.Name, err)
		}
		list = append(list, q)
	}
	return list
}

func mustParse(t testing.TB, area []byte) *tpm.Public {
	t.Helper()
	p, err := tpm.ParsePublic(area)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func TestRecordedPullQuotesVerify(t *testing.T) {
	t.Parallel()
	for _, life := range []string{"pull", "cert", "ecc", "mb"} {
		t.Run(life, func(t *testing.T) {
			t.Parallel()
			var clock tpm.Clock
			var pubKey string
			for _, r := range pullQuotes(t, life) {
				q, err := tpm.ParseQuote(r.wire)
				if err != nil {
					t.Fatalf("%s: %v", r.name, err)
				}
				if q.String() != r.wire {
					t.Errorf("%s: quote does not survive a round trip", r.name)
				}
				pcrs, err := tpm.VerifyQuote(r.ak, q, r.want)
				if err != nil {
					t.Errorf("%s: %v", r.name, err)
					continue
				}
				if err := clock.Check(pcrs.Clock()); err != nil {
					t.Errorf("%s: %v", r.name, err)
				}
				clock = pcrs.Clock()
				if r.pubKey != "" {
					pubKey = r.pubKey
				}
				if got, _ := pcrs.PCR(tpm.PCRData); !bytes.Equal(got, tpm.DataPCR(r.want.Hash, pubKey)) {
					t.Errorf("%s: PCR 16 does not bind the transport key", r.name)
				}
				if r.ak.EncAlg() != r.enc || r.ak.SignAlg() != r.alg {
					t.Errorf("%s: AK is %s, %s; the agent says %s, %s", r.name, r.ak.EncAlg(), r.ak.SignAlg(), r.enc, r.alg)
				}
			}
		})
	}
}

// Push agents send the same three parts and quote PCR 16 too; the challenge is bytes, not letters.
func TestRecordedPushQuotesVerify(t *testing.T) {
	t.Parallel()
	for _, life := range []string{"push", "mbpush"} {
		t.Run(life, func(t *testing.T) {
			t.Parallel()
			ak := mustParse(t, recorded.File(t, "wire/"+life+"/state/ak.tpm2b_public"))
			opened := recorded.Glob(t, "wire/"+life+"/*-to-verifier-POST-*_attestations.json")
			answered := recorded.Glob(t, "wire/"+life+"/*-to-verifier-PATCH-*_attestations_[0-3].json")
			for i, e := range answered {
				var evidence struct {
					Data struct {
						Attributes struct {
							Collected []struct {
								Type string `json:"evidence_type"`
								Data struct {
									Message, Signature []byte
									Subject            []byte `json:"subject_data"`
								}
							} `json:"evidence_collected"`
						}
					}
				}
				var asked struct {
					Data struct {
						Attributes struct {
							Requested []struct {
								Parameters struct {
									Challenge []byte
									Subjects  map[string][]int `json:"selected_subjects"`
								} `json:"chosen_parameters"`
							} `json:"evidence_requested"`
						}
					}
				}
				if err := json.Unmarshal([]byte(e.Request.Body), &evidence); err != nil {
					t.Fatalf("%s: %v", e.Name, err)
				}
				if err := json.Unmarshal([]byte(opened[i].Response.Body), &asked); err != nil {
					t.Fatalf("%s: %v", opened[i].Name, err)
				}
				data, chosen := evidence.Data.Attributes.Collected[0].Data, asked.Data.Attributes.Requested[0].Parameters
				q := tpm.Quote{Attest: data.Message, Signature: data.Signature, PCRBlob: data.Subject}
				want := tpm.Expected{Nonce: chosen.Challenge, Mask: tpm.MaskOf(chosen.Subjects["sha256"]...).With(tpm.PCRData), Hash: tpm.SHA256}
				if _, err := tpm.VerifyQuote(ak, q, want); err != nil {
					t.Errorf("%s: %v", e.Name, err)
				}
			}
		})
	}
}

func TestRecordedRegistrations(t *testing.T) {
	t.Parallel()
	for _, life := range []string{"pull", "cert", "ecc", "mb", "push", "mbpush"} {
		t.Run(life, func(t *testing.T) {
			t.Parallel()
			e := recorded.Read(t, "wire/"+life+"/001-to-registrar-POST-v2.6_agents_ID.json")
			var request struct {
				EK []byte `json:"ek_tpm"`
				AK []byte `json:"aik_tpm"`
			}
			if err := json.Unmarshal([]byte(e.Request.Body), &request); err != nil {
				t.Fatal(err)
			}
			ek, ak := mustParse(t, request.EK), mustParse(t, request.AK)
			if err := ek.CheckEK(); err != nil {
				t.Error(err)
			}
			if err := ak.CheckAK(); err != nil {
				t.Error(err)
			}
			checkKey(t, ek, recorded.File(t, "wire/"+life+"/state/ek.pem"))
			checkKey(t, ak, recorded.File(t, "wire/"+life+"/state/ak.pem"))

			var answer struct {
				Results struct{ Blob []byte }
			}
			if err := json.Unmarshal([]byte(e.Response.Body), &answer); err != nil {
				t.Fatal(err)
			}
			if _, _, err := tpm.ParseCredential(answer.Results.Blob); err != nil {
				t.Error(err)
			}
		})
	}
}

// checkKey compares a parsed public area with the same key in PEM.
func checkKey(t *testing.T, p *tpm.Public, text []byte) {
	t.Helper()
	block, _ := pem.Decode(text)
	if block == nil {
		t.Fatal("no PEM")
	}
	key, err := x509.ParsePKIXPublicKey(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	same := false
	switch k := key.(type) {
	case *rsa.PublicKey:
		same = k.Equal(p.Key())
	case *ecdsa.PublicKey:
		same = k.Equal(p.Key())
	}
	if !same {
		t.Errorf("key of the public area is not %T of the PEM text", key)
	}
}

// What tpm2-tools print: names, keys, a quote in three files and a credential file.
func TestTranscriptOfTPM2Tools(t *testing.T) {
	t.Parallel()
	file := func(name string) []byte { return recorded.File(t, "tpm/transcript/"+name) }
	ek, ak := mustParse(t, file("ek.pub")), mustParse(t, file("ak.pub"))
	checkKey(t, ek, file("ekpub.pem"))
	checkKey(t, ak, file("akpub.pem"))
	if !bytes.Equal(ak.Name(), file("ak.name")) {
		t.Errorf("AK's name is %x, want %x", ak.Name(), file("ak.name"))
	}
	if _, _, err := tpm.ParseCredential(file("mkcred.out")); err != nil {
		t.Error(err)
	}
	q := tpm.Quote{Attest: file("quote.out"), Signature: file("quotesig.out"), PCRBlob: file("quotepcr.out")}
	want := tpm.Expected{Nonce: file("rand.out"), Mask: tpm.MaskOf(15, 16, 22), Hash: tpm.SHA256}
	if _, err := tpm.VerifyQuote(ak, q, want); err != nil {
		t.Error(err)
	}
}

// A quote of SHA-1 bank and signature without a key beside it: its parts parse, and its text is canonical.
func TestRecordedSHA1Quote(t *testing.T) {
	t.Parallel()
	text := string(bytes.TrimSpace(recorded.File(t, "tpm/test-quote.txt")))
	q, err := tpm.ParseQuote(text)
	if err != nil {
		t.Fatal(err)
	}
	if q.String() != text {
		t.Error("quote does not survive a round trip")
	}
	if err := tpm.CheckParts(q); err != nil {
		t.Error(err)
	}
	if _, err := tpm.ParseQuote("r" + base64.StdEncoding.EncodeToString(q.Attest)); err == nil {
		t.Error("a quote of one part was accepted")
	}
}

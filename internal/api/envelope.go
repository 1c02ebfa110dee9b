package api

import (
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"keylime/internal/strictjson"
)

// maxDepth is the deepest nesting of an answer that is read. A failure's context is the deepest genuine content.
const maxDepth = 64

// selfReading are results that decode themselves from the document, in the one pass over it.
type selfReading interface {
	read(r *strictjson.Reader) error
}

// decodeEnvelope reads an answer with that HTTP status. Results may be of any kind when nobody wants them; a POST to
// an agent of another make is answered with null.
func decodeEnvelope(text string, status int, results any) error {
	r := strictjson.NewReader(text, maxDepth)
	var code string
	found := false
	err := r.Object(func(name string) (err error) {
		switch name {
		case "code":
			code, err = r.Number()
		case "status":
			_, err = r.String()
		case "results":
			found = r.Kind() != strictjson.Null
			err = decodeResults(r, results)
		default:
			err = r.Skip()
		}
		return err
	})
	if err == nil {
		err = r.End()
	}
	switch {
	case err != nil:
		return err
	case code != strconv.Itoa(status):
		return fmt.Errorf("code %q in an answer with status %d", code, status)
	case results != nil && !found:
		return errors.New("no results")
	}
	return nil
}

func decodeResults(r *strictjson.Reader, results any) error {
	if results == nil || r.Kind() == strictjson.Null {
		return r.Skip()
	}
	if s, ok := results.(selfReading); ok {
		return s.read(r)
	}
	raw, err := r.Raw()
	if err != nil {
		return err
	}
	return json.Unmarshal([]byte(raw), results)
}

// read decodes evidence, which may be large and comes at every round. What is kept beyond the round is copied, so that
// it does not keep the whole answer in memory.
func (q *QuoteResults) read(r *strictjson.Reader) error {
	*q = QuoteResults{}
	kept := map[string]*string{"hash_alg": &q.HashAlg, "enc_alg": &q.EncAlg, "sign_alg": &q.SignAlg}
	return r.Object(func(name string) (err error) {
		if r.Kind() == strictjson.Null {
			return r.Null()
		}
		switch name {
		case "quote":
			q.Quote, err = r.String()
		case "hash_alg", "enc_alg", "sign_alg":
			*kept[name], err = r.String()
			*kept[name] = strings.Clone(*kept[name])
		case "pubkey":
			q.PubKey, err = optional(r.String())
			*q.PubKey = strings.Clone(*q.PubKey)
		case "ima_measurement_list":
			q.IMA, err = optional(r.String())
		case "mb_measurement_list":
			q.BootLog, err = optional(r.String())
		case "ima_measurement_list_entry":
			q.IMAEntry, err = integer(r, strconv.ParseUint, 64)
		case "boottime":
			q.BootTime, err = integer(r, strconv.ParseInt, 64)
		default:
			err = r.Skip()
		}
		return err
	})
}

func optional(s string, err error) (*string, error) { return &s, err }

func integer[T int64 | uint64](r *strictjson.Reader, parse func(string, int, int) (T, error), bits int) (*T, error) {
	text, err := r.Number()
	if err != nil {
		return nil, err
	}
	n, err := parse(text, 10, bits)
	return &n, err
}

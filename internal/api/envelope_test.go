package api

import (
	"encoding/json"
	"fmt"
	"reflect"
	"strings"
	"testing"
	"time"
)

// evidence is an answer as an agent's, with that many IMA entries.
func evidence(entries int) string {
	line := "10 " + strings.Repeat("ab", 20) + " ima-ng sha256:" + strings.Repeat("cd", 32) + " /usr/lib/x86_64-linux-gnu/libexample.so.1"
	list, n := strings.Repeat(line+"\n", entries), uint64(0)
	key := "-----BEGIN PUBLIC KEY-----\n" + strings.Repeat(strings.Repeat("A", 64)+"\n", 6) + "-----END PUBLIC KEY-----\n"
	text, err := json.Marshal(map[string]any{"code": 200, "status": "Success", "results": QuoteResults{
		Quote: "r" + strings.Repeat("QUJD", 500), HashAlg: "sha256", EncAlg: "rsa2048", SignAlg: "rsassa", PubKey: &key, IMA: &list, IMAEntry: &n,
	}})
	if err != nil {
		panic(err)
	}
	return string(text)
}

// Whatever is read is read as encoding/json reads it.
func FuzzQuoteAnswer(f *testing.F) {
	for _, seed := range []string{
		evidence(3), `{"code":200,"status":"Success","results":{}}`, `{"code":200,"results":{"quote":null,"boottime":-1,"x":[{}]}}`,
		`{"results":{"ima_measurement_list_entry":18446744073709551615},"code":200}`, `{"code":200,"results":{"quote":"\ud83d\ude00"}}`,
		`{"code":200,"results":{"boottime":1e3}}`, `{"code":200,"results":[]}`,
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		var got QuoteResults
		if decodeEnvelope(text, 200, &got) != nil {
			return
		}
		if strings.ToLower(text) != text {
			return // encoding/json also takes names in another case
		}
		var want struct {
			Code    int          `json:"code"`
			Results QuoteResults `json:"results"`
		}
		if err := json.Unmarshal([]byte(text), &want); err != nil {
			t.Fatalf("accepted %q, which encoding/json refuses: %v", text, err)
		}
		if !reflect.DeepEqual(got, want.Results) || want.Code != 200 {
			t.Fatalf("%q read as %+v, want %+v", text, got, want.Results)
		}
	})
}

// BenchmarkQuoteAnswer decodes evidence; the reference is encoding/json's way through the same text.
func BenchmarkQuoteAnswer(b *testing.B) {
	for _, entries := range []int{0, 1000} {
		text := evidence(entries)
		b.Run(fmt.Sprintf("entries=%d", entries), func(b *testing.B) {
			reference := perRun(func() {
				var e struct{ Results QuoteResults }
				if err := json.Unmarshal([]byte(text), &e); err != nil {
					b.Fatal(err)
				}
			})
			b.SetBytes(int64(len(text)))
			b.ReportAllocs()
			for b.Loop() {
				var q QuoteResults
				if err := decodeEnvelope(text, 200, &q); err != nil {
					b.Fatal(err)
				}
			}
			b.ReportMetric(float64(b.Elapsed())/float64(b.N)/float64(reference), "x-encoding/json")
		})
	}
}

// perRun is how long a run takes, from as many as fit into a tenth of a second.
func perRun(run func()) time.Duration {
	start, n := time.Now(), 0
	for time.Since(start) < 100*time.Millisecond {
		run()
		n++
	}
	return time.Since(start) / time.Duration(n)
}

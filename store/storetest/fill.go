package storetest

import (
	"math/rand/v2"
	"reflect"
	"time"

	"keylime/internal/attest"
)

// fill sets every field of *v to something random, so that a field added to a record is tested without a word more.
// Slices are nil or empty now and then.
func fill(r *rand.Rand, v any) { fillValue(r, reflect.ValueOf(v).Elem()) }

func fillValue(r *rand.Rand, v reflect.Value) {
	switch v.Interface().(type) {
	case time.Time:
		v.Set(reflect.ValueOf(randomTime(r)))
		return
	case attest.State:
		v.Set(reflect.ValueOf(state(r.IntN(200))))
		return
	}
	switch v.Kind() {
	case reflect.Struct:
		for i := range v.NumField() {
			fillValue(r, v.Field(i))
		}
	case reflect.String:
		v.SetString(randomText(r))
	case reflect.Bool:
		v.SetBool(r.IntN(2) == 0)
	case reflect.Int:
		v.SetInt(int64(r.Int32()) - 1<<30)
	case reflect.Uint8:
		v.SetUint(uint64(r.IntN(256)))
	case reflect.Uint64:
		v.SetUint(r.Uint64())
	case reflect.Slice:
		size := r.IntN(5) - 1
		if size < 0 {
			v.SetZero()
			return
		}
		v.Set(reflect.MakeSlice(v.Type(), size, size))
		for i := range size {
			fillValue(r, v.Index(i))
		}
	default:
		panic("storetest: cannot fill a " + v.Type().String())
	}
}

// randomTime has microseconds, is in UTC, and is zero now and then.
func randomTime(r *rand.Rand) time.Time {
	if r.IntN(10) == 0 {
		return time.Time{}
	}
	return t0.Add(time.Duration(r.Int64N(1e15)) * time.Microsecond)
}

// randomText has what encodings trip over.
func randomText(r *rand.Rand) string {
	runes := []rune("aZ09 \x00\n\t\x1b\"\\/<>&'%;\u007f\u00e4\u2028\u202e\ufffd\U0001f512")
	text := make([]rune, r.IntN(12))
	for i := range text {
		text[i] = runes[r.IntN(len(runes))]
	}
	return string(text)
}

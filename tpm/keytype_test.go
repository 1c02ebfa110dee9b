package tpm

import "testing"

func TestAcceptsKeyType(t *testing.T) {
	t.Parallel()
	families, sizes := []string{"ecc", "rsa"}, []string{"ecc384", "rsa2048"}
	for _, c := range []struct {
		list []string
		name string
		want bool
	}{
		{families, "rsa", true}, {families, "rsa2048", true}, {families, "ecc256", true}, {families, "ecc", true},
		{families, "rsa3072", false}, {families, "ecc384", false}, {families, "", false},
		{sizes, "rsa", true}, {sizes, "ecc", false}, {sizes, "ecc384", true}, {nil, "rsa", false},
	} {
		if got := AcceptsKeyType(c.list, c.name); got != c.want {
			t.Errorf("%v accepts %q: %v, want %v", c.list, c.name, got, c.want)
		}
	}
}

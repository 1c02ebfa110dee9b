package tpm

import "slices"

// KeyType is the long form of a key type's name. Agents before API 2.5, and lists of accepted types, say "rsa" for
// "rsa2048" and "ecc" for "ecc256".
func KeyType(name string) string {
	switch name {
	case "rsa":
		return "rsa2048"
	case "ecc":
		return "ecc256"
	}
	return name
}

// AcceptsKeyType reports whether a list has a key type, in either form of its name.
func AcceptsKeyType(list []string, name string) bool {
	return slices.ContainsFunc(list, func(accepted string) bool { return KeyType(accepted) == KeyType(name) })
}

// Package policytool makes, converts, signs and checks policies: what surrounds package policy with files, terminals and
// keys. It is `keylime policy`, whose flags, output and exit codes for what upstream's keylime-policy does are the same.
package policytool

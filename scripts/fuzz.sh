#!/bin/sh
# Runs every fuzz target for the given time each: fuzz.sh [20s]
set -eu
for pkg in $(go list ./...); do
	for target in $(go test -list '^Fuzz' "$pkg" | grep '^Fuzz' || true); do
		echo "== $pkg $target"
		go test -run '^$' -fuzz "^$target\$" -fuzztime "${1:-20s}" "$pkg"
	done
done

#!/bin/sh
# Builds the committed tree twice, in two directories, and compares the executables.
set -eu
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
for n in one two-elsewhere; do
	git clone -q . "$work/$n"
	make -s -C "$work/$n" build
	sha256sum "$work/$n/keylime"
done
cmp "$work/one/keylime" "$work/two-elsewhere/keylime"
echo "reproducible"

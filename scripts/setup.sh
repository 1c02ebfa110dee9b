#!/bin/sh
# Installs what the demo and the tests need on a Debian machine and does nothing where it is there already.
#
#   setup.sh [tpm] [tools] [peer VENV]
#
#   tpm    a software TPM with tools to make its EK certificate (swtpm, swtpm-tools)
#   tools  a C compiler, which Go's race detector needs, and programs that tests compare with (tpm2-tools,
#          openssl, tools of packages)
#   peer   upstream's Python roles in a virtual environment, as a peer to test against
set -eu

KEYLIME_PEER='keylime==7.14.3 cryptography==50.0.2 tornado==6.6.1 pyzmq==27.3.0 pyyaml==6.0.3
  requests==2.34.2 sqlalchemy==2.1.9 alembic==1.20.1 packaging==26.3 psutil==7.2.2
  lark==1.3.1 pyasn1==0.6.5 pyasn1-modules==0.4.2 jinja2==3.1.6 jsonschema==4.26.0'

updated=
install() { # packages...
	if [ "$(id -u)" = 0 ]; then root=; else root=sudo; fi
	echo "setup: installing $*"
	if [ -z "$updated" ]; then $root apt-get update -qq; updated=1; fi
	$root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq "$@" >/dev/null
}

has() { command -v "$1" >/dev/null 2>&1; }

tpm() {
	if ! has swtpm || ! has swtpm_setup || ! has swtpm_localca; then install swtpm swtpm-tools; fi
}

tools() {
	has gcc || install gcc libc6-dev
	has tpm2_checkquote || install tpm2-tools
	has openssl || install openssl
	has setpriv || install util-linux
	has cpio || install cpio
	has python3 || install python3
	# Packages are made, unpacked and signed with the tools of their distributions.
	has dpkg-deb || install dpkg
	if ! has rpmbuild || ! has rpm2archive; then install rpm; fi
	has createrepo_c || install createrepo-c
	has gpg || install gnupg
	has xz || install xz-utils
	has zstd || install zstd
}

peer() { # venv
	installed='import importlib.metadata as m; assert m.version("keylime") == "7.14.3"'
	# Debian's own Python: its gpg binding is built for it, and upstream imports that at start.
	python=/usr/bin/python3
	if [ ! -x "$python" ] || ! "$python" -c 'import ensurepip, gpg, rpm' 2>/dev/null; then
		install python3 python3-venv python3-gpg python3-rpm
	fi
	if [ -x "$1/bin/python" ] && "$1/bin/python" -c "$installed" 2>/dev/null; then
		return
	fi
	echo "setup: creating $1 with upstream's Python roles"
	"$python" -m venv --clear "$1"
	# Upstream's wheel declares no dependencies, so they are named.
	# shellcheck disable=SC2086
	"$1/bin/pip" install -q --disable-pip-version-check $KEYLIME_PEER
	site=$("$1/bin/python" -c 'import site; print(site.getsitepackages()[0])')
	ln -sfn /usr/lib/python3/dist-packages/gpg "$site/gpg"
	"$1/bin/python" -c "$installed; import gpg"
}

while [ $# -gt 0 ]; do
	case $1 in
	tpm | tools) "$1" ;;
	peer) peer "$2"; shift ;;
	*) echo "usage: setup.sh [tpm] [tools] [peer VENV]" >&2; exit 2 ;;
	esac
	shift
done

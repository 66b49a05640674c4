#!/bin/bash
# Runs all tests: with the race detector on this OS, as root, then the OS-free packages and those of macOS and Windows as
# real binaries of theirs where the labs for them are at hand. On macOS root runs only what needs it. Usage: test.sh DARWINLAB WINELAB PACKAGE...
set -eu
darwinlab=$1 winelab=$2; shift 2

if [ "$(uname)" = Darwin ] && [ "$(id -u)" != 0 ]; then
	CI= go test ./... # leaves out what needs root
	exec go test -exec "sudo env CI=${CI:-}" ./platform/...
fi
if [ "$(uname)" != Linux ]; then
	exec go test ./...
fi
if [ "$(id -u)" != 0 ]; then
	# The kernel and the engines are tested as root; the Go caches stay the user's.
	exec sudo env "PATH=$PATH" "CI=${CI:-}" "GOFLAGS=-buildvcs=false" "GOPATH=$(go env GOPATH)" "GOCACHE=$(go env GOCACHE)" \
		"GOMODCACHE=$(go env GOMODCACHE)" "FAIRLEAD_LABS=${FAIRLEAD_LABS:-}" "$0" "$darwinlab" "$winelab" "$@"
fi

# systemd-resolved is unpacked, not installed: its package would take over this machine's /etc/resolv.conf.
if [ ! -x /lib/systemd/systemd-resolved ] && command -v apt-get > /dev/null; then
	cache=/var/cache/fairlead-test
	if [ ! -x $cache/root/lib/systemd/systemd-resolved ]; then
		echo "unpacking systemd-resolved into $cache"
		rm -rf $cache && mkdir -p $cache
		apt-cache show libsystemd-shared > /dev/null 2>&1 || apt-get -qq update
		internal/lab/prepare.sh $(apt-cache depends libsystemd-shared systemd-resolved | sed -n 's/^  Depends: \(lib.*\)/\1/p' | grep -v libsystemd-shared | sort -u)
		(cd $cache && apt-get -o APT::Sandbox::User=root download -qq systemd-resolved libsystemd-shared && for p in *.deb; do dpkg -x "$p" root; done)
	fi
	export FAIRLEAD_TEST_RESOLVED=$cache/root
fi

# absent LAB: what to do where a lab is not at hand.
absent() {
	if [ "${CI:-}" = true ] && [ "${FAIRLEAD_LABS:-}" != none ]; then
		echo "no $1 lab at $2; CI needs it (FAIRLEAD_LABS=none leaves the labs out)" >&2
		exit 1
	fi
	echo "no $1 lab at $2: the $1 binaries of the tests are compiled by make oscheck, not run"
}

# Made before any test runs: those of internal/lab/e2e run the whole agent in it.
if [ -d "$darwinlab" ]; then
	mkdir -p bin
	cp -r --no-preserve=mode "$darwinlab" bin/darwinlab.new && rm -rf bin/darwinlab && mv bin/darwinlab.new bin/darwinlab
	make -s -C bin/darwinlab
fi
if [ -d "$winelab" ]; then
	mkdir -p bin
	cp -r --no-preserve=mode "$winelab" bin/winelab.new && rm -rf bin/winelab && mv bin/winelab.new bin/winelab
	winelab=bin/winelab
	WINEDEBUG=-all bash $winelab/winelab.sh setup > bin/winelab.log 2>&1 || { cat bin/winelab.log; exit 1; }
fi

go test -race -timeout 20m ./...

if [ -d "$darwinlab" ]; then
	echo "as darwin/amd64 binaries:"
	GOOS=darwin GOARCH=amd64 CGO_ENABLED=0 go test -exec "$PWD/bin/darwinlab/bin/darwinrun" "$@"
	internal/lab/darwin.sh bin/darwinlab
else
	absent darwin "$darwinlab"
fi
if [ -d "$winelab" ]; then
	echo "as windows/amd64 binaries:"
	status=0
	GOOS=windows GOARCH=amd64 CGO_ENABLED=0 go test -exec "bash $(realpath "$winelab/winelab.sh") run" "$@" || status=$?
	bash "$winelab/winelab.sh" stop > /dev/null 2>&1 || true
	[ $status = 0 ] || exit $status
	internal/lab/windows.sh "$winelab"
else
	absent windows "$winelab"
fi

#!/bin/bash
# Runs the tests that change a Mac's routes and /etc/resolver, as real darwin/amd64 binaries in a throw-away network
# namespace and a throw-away root of files. Usage: darwin.sh DARWINLAB-DIR (with bin/darwinrun made); needs root.
# The exit code is 0 when all passed. Nothing is left behind.
set -eu
cd "$(dirname "$0")/../.."
darwinrun=$(realpath "$1")/bin/darwinrun
ns=fairlead-darwin-$$
tmp=$(mktemp -d /tmp/fairlead-darwin.XXXXXX)
trap 'ip netns del $ns 2> /dev/null || true; rm -rf "$tmp"' EXIT
trap 'exit 1' INT TERM

mkdir "$tmp/root"
"$darwinrun" --mkroot "$tmp/root"
for tool in dscacheutil killall; do # note that they were called, and how
	printf '#!/bin/sh\necho "%s $*" >> %s/flushed\n' $tool "$tmp/root/var/log" > "$tmp/root/usr/bin/$tool"
	chmod +x "$tmp/root/usr/bin/$tool"
done

# What system in routes/table_darwin_test.go wants.
ip netns add $ns
n="ip -n $ns"
ip netns exec $ns sysctl -qw net.ipv6.conf.default.accept_dad=0 net.ipv6.conf.default.addr_gen_mode=1
$n link set lo up
$n link add bridge100 type veth peer name vm
$n link add en0 type veth peer name lan
for l in bridge100 vm en0 lan; do $n link set $l up; done
$n addr add 192.168.64.1/24 dev bridge100
$n addr add fd00:64::1/64 dev bridge100
$n addr add fe80::1/64 dev bridge100
$n addr add 198.51.100.1/24 dev en0
$n addr add fd00:98::1/64 dev en0
$n link add name down type bridge
$n link add bare type veth peer name bare-peer
$n link set bare up

status=0
for p in routes resolver; do
	GOOS=darwin GOARCH=amd64 CGO_ENABLED=0 go test -c -o "$tmp/$p.test" ./$p
	(cd $p && DARWINRUN_ROOT=$tmp/root FAIRLEAD_TEST_SYSTEM=darwin ip netns exec $ns "$darwinrun" "$tmp/$p.test") || status=1
done
exit $status

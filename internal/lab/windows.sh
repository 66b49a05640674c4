#!/bin/bash
# Runs the tests that change routes and resolver entries of Windows (FAIRLEAD_TEST_SYSTEM=windows allows them that) as real
# .exe files in a Windows session of their own. Its adapters are those of a network namespace, so its routes are real ones,
# and seen from Linux. Needs root; removes all it made. Usage: windows.sh WINELAB-DIR
set -eu
winelab=$(realpath "$1")/winelab.sh
cd "$(dirname "$0")/../.."
ns=fairlead-windows-$$ tmp=$(mktemp -d)
export WINELAB=${WINELAB:-/var/tmp/winelab} WINELAB_NETNS=$ns WINEDEBUG=-all
monitor=

clean() {
	[ -z "$monitor" ] || kill "$monitor" 2> /dev/null || true
	bash "$winelab" stop > /dev/null 2>&1 || true
	ip netns del $ns 2> /dev/null || true
	rm -rf "$tmp" "$WINELAB/prefix-$ns"
}
trap clean EXIT
trap 'exit 1' INT TERM

bash "$winelab" setup > "$tmp/setup" 2>&1 || { cat "$tmp/setup"; exit 1; }
internal/lab/prepare.sh osslsigncode openssl
ip netns add $ns
ip -n $ns link set dev lo up
ip -n $ns link add name near type veth peer name peer
for link in near peer; do
	ip -n $ns link set dev $link addrgenmode none # no address that comes some time later
	ip -n $ns link set dev $link up
done
ip -n $ns addr add 192.0.2.1/24 dev near
ip -n $ns addr add fe80::1/64 dev near nodad
rows() { ip -n $ns -4 route show table all; ip -n $ns -6 route show table all; }
rows > "$tmp/before"
ip -n $ns monitor route > "$tmp/monitor" &
monitor=$!

# A DLL with a signature: one of Wine's, by a certificate for the purpose. Wine asks nobody who that is.
bash "$winelab" start > "$tmp/start" 2>&1 || { cat "$tmp/start"; exit 1; } # with who restarts services
openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj '/CN=fairlead test' -addext extendedKeyUsage=codeSigning -keyout "$tmp/key" -out "$tmp/cert" 2> /dev/null
osslsigncode sign -certs "$tmp/cert" -key "$tmp/key" -h sha256 -in "$(bash "$winelab" path 'C:\windows\system32\version.dll')" -out "$tmp/signed.dll" > /dev/null

status=0
FAIRLEAD_TEST_SIGNED="Z:${tmp//\//\\}\\signed.dll" FAIRLEAD_TEST_SYSTEM=windows GOOS=windows GOARCH=amd64 CGO_ENABLED=0 \
	go test -count=1 -exec "bash $winelab run" ./routes ./resolver ./installer || status=$?
FAIRLEAD_TEST_ADAPTER=near GOOS=windows GOARCH=amd64 CGO_ENABLED=0 \
	go test -count=1 -run ConfigureAnAdapter -exec "bash $winelab run" ./platform/tunnel || status=$?

fail() { echo "windows.sh: $1" >&2; status=1; }
rows > "$tmp/after"
diff "$tmp/before" "$tmp/after" || fail "the tests left routes behind"
# What the tests say of themselves, seen with other eyes: by Linux, and by the lab's DNS Client service.
for row in '198.18.0.0/16 via 192.0.2.2 dev near .*metric 208' '198.18.0.0/16 dev lo .*metric 208' '2001:db8:f1ea:1::/64 via fe80::2 dev near'; do
	grep -q "^$row" "$tmp/monitor" || fail "Linux has never seen: $row"
	grep -q "^Deleted $row" "$tmp/monitor" || fail "Linux has not seen it deleted: $row"
done
bash "$winelab" log > "$tmp/log"
for call in 'nrpt local {f1ea1ead-.* name .17.172.in-addr.arpa,.docker servers 127.0.0.153' 'nrpt policy {f1ea1ead-.* name .docker' RefreshPolicyEx DnsFlushResolverCache 'at work' 'ReportEvent type 1 .*has not ended in time'; do
	grep -q "$call" "$tmp/log" || fail "Windows has never been told: $call"
done
exit $status

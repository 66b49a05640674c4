#!/bin/sh
# Installs what the tests and the demo need on Debian and Ubuntu, and the packages that the arguments name.
# Prints one line per package installed; does nothing, at once, when all is there, and on macOS and Windows, where nothing but
# Go is needed. Starts no service.
set -eu
[ "$(uname)" = Linux ] || exit 0
PATH=$PATH:/usr/local/sbin:/usr/sbin:/sbin
[ "$(uname)" = Linux ] || exit 0 # elsewhere the tests that need more are left out

# Package, and the command or file that shows it is there, wherever it came from.
wanted='docker.io dockerd
iproute2 ip
iptables iptables-save
nftables nft
iputils-ping ping
bind9-dnsutils dig
knot-dnsutils kdig
ldnsutils drill
curl curl
iperf3 iperf3
openssh-server sshd
podman podman
netavark /usr/lib/podman/netavark
uidmap newuidmap
rootlesskit rootlesskit
slirp4netns slirp4netns
libarchive-tools bsdtar
procps ps
dbus dbus-daemon
systemd /lib/systemd/systemd
gcc gcc
libc6-dev /usr/include/stdlib.h'

missing=$(echo "$wanted" | while read -r package proof; do
	[ -e "$proof" ] || command -v "$proof" >/dev/null || echo "$package"
done)
for package in "$@"; do
	[ "$(dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null)" = installed ] || missing="$missing $package"
done
[ -n "$missing" ] || command -v docker >/dev/null || missing=docker-cli
[ -n "$missing" ] || exit 0

fail() { echo "prepare.sh: $*" >&2; exit 1; }
command -v apt-get >/dev/null || fail "no apt-get on this system; please install:" $missing
sudo=
if [ "$(id -u)" != 0 ]; then
	command -v sudo >/dev/null || fail "needs root or sudo to install:" $missing
	sudo=sudo
fi

log=$(mktemp)
policy=
trap 'rm -f "$log"; [ -z "$policy" ] || $sudo rm -f "$policy"' EXIT
trap 'exit 1' HUP INT TERM
if [ ! -e /usr/sbin/policy-rc.d ]; then
	policy=/usr/sbin/policy-rc.d # forbids the packages to start their services; removed at exit
	printf '#!/bin/sh\nexit 101\n' | $sudo tee $policy >/dev/null
	$sudo chmod 755 $policy
fi
apt() {
	$sudo env DEBIAN_FRONTEND=noninteractive apt-get -qq "$@" >"$log" 2>&1 || { cat "$log" >&2; fail "apt-get $* failed"; }
}
apt update
apt install -y --no-install-recommends $missing
printf 'installed %s\n' $missing
if ! command -v docker >/dev/null; then # from Debian 13 on no part of docker.io
	apt install -y --no-install-recommends docker-cli
	echo "installed docker-cli"
fi

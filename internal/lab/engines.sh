#!/bin/sh
# Unpacks a newer engine with all that it needs, without installing anything, and prints the path of its dockerd, to be
# used as LAB_DOCKERD, or as LAB_PODMAND. Usage: engines.sh 17|26|28|29|podman DIR. Needs root, apt and a Debian mirror (MIRROR), for 17 one
# of Ubuntu (UBUNTU_MIRROR); DIR may be kept.
#
#   17  docker.io 17.12 of Ubuntu 18.04 (bionic), with the iptables of then, which is the legacy kind
#   26  docker.io 26.1 of Debian 13 (trixie)
#   28  docker.io 28.5 of Debian testing (forky)
#   29  built by go from github.com/moby/moby/v2, which takes ten minutes; containerd, runc and iptables are those of
#       engine 28, in DIR/../engine-28. Beside its dockerd stands dockerd-nftables, the same with --firewall-backend=nftables.
#   podman  podman 5.4 of Debian 13 (trixie), served by e2e/testdata/podmand
#
# That dockerd runs in a mount namespace where its own system's /usr is in place of this machine's, so this machine's must
# be merged too. It uses iptables-nft, unless beside it stand links named iptables and ip6tables to
# /usr/sbin/xtables-legacy-multi.
set -eu
moby=github.com/moby/moby/v2
source="[signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] ${MIRROR:-http://deb.debian.org/debian}" components=main
here=$(cd "$(dirname "$0")" && pwd)
case ${1-}:${2:+dir} in
17:dir) suite=bionic source="[signed-by=$here/ubuntu.asc] ${UBUNTU_MIRROR:-http://archive.ubuntu.com/ubuntu}" components="main universe" ;;
26:dir) suite=trixie ;;
28:dir) suite=forky ;;
29:dir) suite= ;;
podman:dir) suite=trixie ;;
*) echo "usage: engines.sh 17|26|28|29|podman DIR" >&2; exit 2 ;;
esac
case $1 in
podman) packages="podman runc netavark aardvark-dns" program=$here/e2e/testdata/podmand says="podman version 5." ;;
17) packages=docker.io program=/usr/bin/dockerd says="Docker version 17." ;;
*) packages=docker.io program=/usr/sbin/dockerd says="Docker version $1." ;;
esac
mkdir -p "$2"
dir=$(cd "$2" && pwd)
if [ "$1" = 29 ]; then
	"$0" 28 "$dir/../engine-28" >/dev/null
	if [ ! -x "$dir/dockerd" ]; then
		for program in dockerd docker-proxy; do
			GOBIN="$dir/bin" CGO_ENABLED=0 GOFLAGS=-trimpath go install -ldflags "-s -w -X $moby/dockerversion.Version=$1-beta.24" "$moby/cmd/$program@v2.0.0-beta.24" >&2
		done
		cat >"$dir/dockerd-nftables" <<-END
			#!/bin/sh
			# This firewall leaves it to others to let the machine forward, and starts on no machine that does not.
			echo 1 >/proc/sys/net/ipv4/ip_forward && echo 1 >/proc/sys/net/ipv6/conf/all/forwarding && exec '$dir/dockerd' --firewall-backend=nftables "\$@"
		END
		cat >"$dir/nft" <<-END
			#!/bin/sh
			# That of Debian 12 breaks down at the sight of this engine's tables.
			exec unshare --mount sh -c 'mount --bind "\$0/../engine-28/usr" /usr && exec /usr/sbin/nft "\$@"' '$dir' "\$@"
		END
		cat >"$dir/dockerd.new" <<-END
			#!/bin/sh
			PATH="$dir/bin:\$PATH" exec unshare --mount sh -c 'mount --bind "\$0/../engine-28/usr" /usr && exec "\$0/bin/dockerd" "\$@"' '$dir' "\$@"
		END
		chmod +x "$dir/dockerd-nftables" "$dir/nft" "$dir/dockerd.new"
		mv "$dir/dockerd.new" "$dir/dockerd"
	fi
fi
if [ "$suite" ] && { [ ! -x "$dir/dockerd" ] || [ ! -x "$dir/usr/sbin/nft" ]; }; then
	mkdir -p "$dir/state/lists/partial" "$dir/debs/partial" "$dir/etc/preferences.d"
	: >"$dir/state/status" # as if nothing were installed: every dependency comes along
	echo "deb $source $suite $components" >"$dir/etc/sources.list"
	apt() {
		apt-get -qq -o Dir::Etc="$dir/etc" -o Dir::State="$dir/state" -o Dir::State::status="$dir/state/status" \
			-o Dir::Cache="$dir" -o Dir::Cache::archives="$dir/debs" -o APT::Sandbox::User=root -o Acquire::Languages=none "$@" >&2
	}
	apt update
	apt install -y --no-install-recommends --download-only $packages iptables nftables dash coreutils mount util-linux kmod procps
	for deb in "$dir"/debs/*.deb; do
		mkdir -p "$dir/new/usr"
		dpkg-deb --fsys-tarfile "$deb" | tar -x -C "$dir/new" --no-same-owner
		for old in bin sbin lib lib64; do # where /usr was not merged yet
			[ -L "$dir/new/$old" ] || [ ! -d "$dir/new/$old" ] || { mkdir -p "$dir/new/usr/$old" && cp -a "$dir/new/$old/." "$dir/new/usr/$old/"; }
		done
		cp -a "$dir/new/usr" "$dir/"
		rm -rf "$dir/new"
	done
	rm -rf "$dir/state" "$dir/debs" "$dir/etc" "$dir"/*.bin
	if [ -e "$dir/usr/sbin/xtables-nft-multi" ]; then # what the packages' scripts would do
		for name in iptables ip6tables; do ln -sf xtables-nft-multi "$dir/usr/sbin/$name"; done
	else
		ln -sf xtables-multi "$dir/usr/sbin/xtables-legacy-multi"
	fi
	if [ "$1" = 17 ]; then # its containerd insists on a right that not every root has (CAP_SYS_RESOURCE), but in a user namespace
		mv "$dir/usr/bin/docker-containerd" "$dir/usr/bin/docker-containerd.real"
		echo 0 0 1 >"$dir/usr/bin/docker-containerd.map"
		printf '#!/bin/sh\nmount --bind "$0.map" /proc/$$/uid_map && exec "$0.real" "$@"\n' >"$dir/usr/bin/docker-containerd"
		chmod +x "$dir/usr/bin/docker-containerd"
	fi
	cat >"$dir/dockerd.new" <<-END
		#!/bin/sh
		exec unshare --mount sh -c 'mount --bind "\$0/usr" /usr && exec $program "\$@"' '$dir' "\$@"
	END
	chmod +x "$dir/dockerd.new"
	case $("$dir/dockerd.new" --version) in
	"$says"*) ;;
	*) echo "engines.sh: $suite has another engine by now:" "$("$dir/dockerd.new" --version)" >&2; exit 1 ;;
	esac
	mv "$dir/dockerd.new" "$dir/dockerd"
fi
echo "$dir/dockerd"

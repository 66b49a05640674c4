# Makes a real systemd the first process of this host: with processes, cgroups, /dev, /run, /tmp, /usr/local and logs of its own, and
# all that is not the host's own already read-only. It starts D-Bus, the journal, systemd-resolved where that is at hand, and what
# multi-user.target wants in /etc; nothing that a real machine has to set up at boot. It ends with this process.
# $1 a name for its cgroups, $2 a folder below a tmpfs, empty or of an earlier one, $3 where systemd-resolved is unpacked or ""
set -e
if [ "$4" != inside ]; then
	for tree in /sys/fs/cgroup /sys/fs/cgroup/*; do
		if [ -e "$tree/cgroup.procs" ] && [ ! -e "$tree/../cgroup.procs" ] && [ ! -h "$tree" ]; then
			mkdir -p "$tree/$1"
			for set in cpus mems; do # of the first version, empty at first
				[ ! -e "$tree/cpuset.$set" ] || cat "$tree/cpuset.$set" >"$tree/$1/cpuset.$set"
			done
			echo $$ >"$tree/$1/cgroup.procs"
		fi
	done
	exec unshare --mount --pid --fork --kill-child --ipc --cgroup /bin/sh -c "$SYSTEMD_SH" systemd.sh "$1" "$2" "$3" inside
fi

mount --make-rprivate /
if [ -e /sys/fs/cgroup/cgroup.procs ]; then
	umount --recursive /sys/fs/cgroup
	mount -t cgroup2 lab /sys/fs/cgroup
else # the first version: systemd mounts what else there is of it
	umount --recursive /sys/fs/cgroup
	mount -t tmpfs -o mode=755 lab /sys/fs/cgroup
	mkdir /sys/fs/cgroup/systemd /sys/fs/cgroup/unified
	mount -t cgroup -o none,name=systemd lab /sys/fs/cgroup/systemd
	mount -t cgroup2 lab /sys/fs/cgroup/unified
fi
mount -t proc proc /proc
mount --bind /proc/sys /proc/sys
mount --bind /proc/sys/net /proc/sys/net
mount -o remount,bind,ro /proc/sys
mount -o remount,bind,ro /sys

mkdir -p "$2/dev/net" "$2/dev/pts" "$2/dev/shm"
ln -sf pts/ptmx "$2/dev/ptmx"
for node in null zero full random urandom tty net/tun; do
	: >"$2/dev/$node"
	mount --bind "/dev/$node" "$2/dev/$node"
done
mount --rbind "$2/dev" /dev
mkdir -p "$2/local" "$2/work"
mount -t overlay -o "lowerdir=/usr/local,upperdir=$2/local,workdir=$2/work" lab /usr/local
[ -z "$3" ] || mount --bind "$3" /mnt # what is in /var/tmp, say, is out of sight from here on
for dir in /run /tmp /var/tmp /var/log; do
	mount -t tmpfs -o mode=1755 lab $dir
done

# No unit of this machine's but those that are named below, and fairlead's.
for dir in /lib/systemd/system/*.wants /lib/systemd/system-generators; do
	mount -t tmpfs lab "$dir"
done
wants="dbus.socket systemd-journald.service multi-user.target"
if [ -n "$3" ]; then
	dropin=/etc/systemd/system/systemd-resolved.service.d
	mkdir -p $dropin /etc/dbus-1/system.d
	cp /mnt/lib/systemd/system/systemd-resolved.service /etc/systemd/system/
	cp /mnt/usr/share/dbus-1/system.d/org.freedesktop.resolve1.conf /etc/dbus-1/system.d/
	printf '[Service]\nExecStart=\nExecStart=!!/mnt/lib/systemd/systemd-resolved\nEnvironment=LD_LIBRARY_PATH=%s\n' /mnt/usr/lib/*/systemd >$dropin/lab.conf
	id systemd-resolve >/dev/null 2>&1 || useradd --system --no-create-home --user-group systemd-resolve
fi
if [ -n "$3" ] || [ -x /lib/systemd/systemd-resolved ]; then
	ln -sf ../run/systemd/resolve/stub-resolv.conf /etc/resolv.conf
	wants="$wants systemd-resolved.service"
fi
if [ ! -e /etc/systemd/system/lab.target ]; then # the first time
	rm -rf /etc/systemd/system/*.wants
	: >/etc/fstab
	echo 0123456789abcdef0123456789abcdef >/etc/machine-id
	printf '[Unit]\nWants=%s\nAfter=%s\n' "$wants" "$wants" >/etc/systemd/system/lab.target
fi
mount -o remount,bind,ro /
exec env -i container=other PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin \
	/lib/systemd/systemd --unit=lab.target --log-target=journal --show-status=no

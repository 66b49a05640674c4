# First process of a machine, already in its network namespace. Gives it directories of its own to write in, says
# "ready", and lives until its input ends; a VM, having a pid namespace, ends wholly with this process.
# $1 hostname, $2 an empty directory, $3 text of resolv.conf, $4 host or vm
set -e
mount --make-rslave / # what is unmounted outside must not live on in here
mount -t tmpfs -o mode=755 lab "$2"
mkdir "$2/cgroup" "$2/data" "$2/exec"

# A /sys of this network namespace, with the cgroups kept. Without securityfs dockerd leaves AppArmor alone.
mount --rbind /sys/fs/cgroup "$2/cgroup"
mount -t sysfs sysfs /sys
mount --move "$2/cgroup" /sys/fs/cgroup

# The real /run holds the sockets of the real systemd, D-Bus and containerd: out of sight.
mount -t tmpfs -o mode=755 lab /run
for dir in /etc /var/lib /opt; do
	mkdir -p "$2/upper$dir" "$2/work$dir"
	mount -t overlay -o "lowerdir=$dir,upperdir=$2/upper$dir,workdir=$2/work$dir" lab "$dir"
done
rm -f /etc/resolv.conf
printf %s "$3" >/etc/resolv.conf

ip link set lo up
if [ "$4" = vm ]; then
	mount -t proc proc /proc
	# dockerd sets the FORWARD policy to DROP only when it is the one that switches this on.
	echo 0 >/proc/sys/net/ipv4/ip_forward
	[ ! -d /proc/sys/net/ipv6 ] || echo 1 >/proc/sys/net/ipv6/conf/default/keep_addr_on_down
fi
echo "$1" >/proc/sys/kernel/hostname
echo ready
# With SIGCHLD ignored the kernel reaps the orphans; dash's trap cannot ignore it.
exec env --ignore-signal=CHLD cat >/dev/null 2>&1

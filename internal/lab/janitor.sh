# Reads undo commands, one a line. At the end of its input, however that came, runs them, the last one first.
# Prints only what could not be undone.
trap '' HUP INT QUIT TERM PIPE

# netns NAME: end every process in it, then remove the name; its links go with it.
netns() {
	tries=0
	while pids=$(ip netns pids "$1" 2>/dev/null) && [ -n "$pids" ]; do
		kill -9 $pids 2>/dev/null
		tries=$((tries + 1))
		[ $tries -le 200 ] || { echo "netns $1: processes do not end:" $pids; break; }
		sleep 0.02
	done
	[ ! -e "/run/netns/$1" ] || ip netns del "$1"
}

# netnsdir: what the first `ip netns add` made of /run/netns, if it was one of ours and no name is left.
netnsdir() {
	[ -e /run/netns.lab ] || return 0
	# /run is locked against a world that is just adding its name.
	flock /run sh -c '[ -n "$(ls -A /run/netns)" ] || { umount /run/netns && rmdir /run/netns && rm -f /run/netns.lab; }'
}

# cgroup NAME: remove the tree in every hierarchy (v1, v2), once the last process has left it.
cgroup() {
	for dir in "/sys/fs/cgroup/$1" /sys/fs/cgroup/*/"$1"; do
		tries=0
		while [ -d "$dir" ] && ! find "$dir" -depth -type d -exec rmdir {} + 2>/dev/null; do
			tries=$((tries + 1))
			[ $tries -le 200 ] || { echo "cgroup $dir: still in use by" $(cat "$dir"/*/cgroup.procs); break; }
			sleep 0.02
		done
	done
}

undo=
while IFS= read -r line; do
	undo="$line
$undo"
done
eval "$undo" 2>&1

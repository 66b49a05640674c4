#!/bin/bash
# dnsbench.sh JUDGE FAIRLEAD: the whole agent beside other DNS servers and a C program that echoes datagrams, with 1,000 and 100,000 names;
# and its start beside the time that the engine's list takes to be read.
# JUDGE is the folder with bench.sh, FAIRLEAD the binary. Needs root; runs in a network namespace of its own, where nobody else's
# packets and rules are. Exit 1: fairlead missed a limit; the lines that begin with FAIL say which. Variables:
#   NAMES="1000 100000"  ROUNDS=7  LAT_ROUNDS=5  RETRY=12: how often a slice is measured again in which others were busy
#   PEERS=nsd,knot,unbound,dnsmasq   of those installed (Debian: nsd knot unbound dnsmasq-base)
#   STARTS=9       of the agent
#   COREDNS=PATH   a CoreDNS; go install github.com/coredns/coredns@v1.15.0 makes one
set -eu
[ $# = 2 ] || { sed -n '2,9s/^# \?//p' "$0"; exit 2; }
if [ -z "${FAIRLEAD_DNSBENCH_NETNS:-}" ]; then
	export FAIRLEAD_DNSBENCH_NETNS=1
	exec unshare -n bash "$0" "$@"
fi
ip link set lo up
PATH=$PATH:/usr/local/sbin:/usr/sbin:/sbin
judge=$(cd "$1" && pwd)
here=$(cd "$(dirname "$0")/../.." && pwd)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
export BENCH_BIN=${BENCH_BIN:-$here/bin/dnsbench} BENCH_DATA=$work/data BENCH_LOGS=$work/logs
(cd "$here" && go build -o "$work/" ./dnsserver/testdata/plain ./internal/lab/startbench)
installed=
for peer in ${PEERS:-nsd knot unbound dnsmasq}; do
	for one in ${peer//,/ }; do
		case $one in knot) command=knotd ;; *) command=$one ;; esac
		command -v $command >/dev/null && installed=$installed,$one || echo "# $one is not installed"
	done
done

binary=$2
fairlead="fairlead=$binary run --engine unix://{sock} --gateway native --resolver none --dns-listen 127.0.0.1:{port} --state-dir {dir}/fairlead --control {dir}/fairlead.sock --log-level error"
others=("plain=$work/plain {hosts} 127.0.0.1:{port}")
if [ -n "${COREDNS:-}" ]; then
	others+=("coredns-hosts=!sed s/PORT/{port}/ {dir}/Corefile.hosts > {dir}/corefile.run; exec $COREDNS -conf {dir}/corefile.run")
else
	echo "# no COREDNS is given"
fi
failed=0
judge() { # what it is, then bench.sh's arguments
	echo "== $1"
	shift
	bash "$judge/bench.sh" "$@" "$fairlead" 2>"$work/progress" || { tail -n 3 "$work/progress"; failed=1; }
}
starts() { # how many names
	"$BENCH_BIN/fakedocker" -sock "$work/engine" -hosts "$BENCH_DATA/$1/hosts" 2>/dev/null &
	until [ -S "$work/engine" ]; do sleep 0.1; done
	"$work/startbench" "${STARTS:-9}" "$BENCH_DATA/$1/hosts" "$work/engine" "fairlead=$binary" || failed=1
	kill $!
	rm -f "$work/engine"
}
for n in ${NAMES:-1000 100000}; do # the limits: docs/benchmarks.md
	cpu=1.12 qps=0.88 memory=16
	[ "$n" -le 1000 ] || cpu=1.25 qps=0.80 memory=48
	common="--judge fairlead --retry ${RETRY:-12} --rounds ${ROUNDS:-7} --lat-rounds ${LAT_ROUNDS:-5}"
	judge "$n names, server and generator on a CPU each" -n "$n" ${installed:+-P "${installed#,}"} $common --max-cpu $cpu --min-qps $qps --max-rss $memory "${others[@]}"
	judge "$n names, on whatever CPU" -n "$n" $common --free --lat-cpu free --echo-threads 2 --max-p50 1.3 --max-p99 1.6
	judge "$n names, EDNS in every question" -n "$n" $common --edns --max-cpu $cpu
	echo "== $n names, from the start to the first right answer"
	starts "$n"
done
exit $failed

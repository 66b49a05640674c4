#!/bin/bash
# Shows on a real Mac what no lab can: launchd runs the service and starts it again, macOS asks it for names, and nothing is left
# when it is gone. No engine is needed. Usage: sudo internal/lab/mac.sh, after make build; not where fairlead is installed.
set -eu
cd "$(dirname "$0")/../.."
fairlead=$PWD/bin/fairlead
if [ "$(uname) $(id -u)" != "Darwin 0" ] || [ ! -x "$fairlead" ]; then
	sed -n '2,3s/^# //p' "$0" >&2
	exit 2
fi
if [ -e /Library/LaunchDaemons/dev.fairlead.agent.plist ]; then
	echo "mac.sh: fairlead is installed here already" >&2
	exit 2
fi

trap '"$fairlead" uninstall > /dev/null 2>&1 || true' EXIT
trap 'exit 1' INT TERM
fail() {
	echo "mac.sh: $*" >&2
	tail -n 30 /var/log/fairlead.log >&2 || true
	scutil --dns >&2
	exit 1
}
await() { # WHAT COMMAND...: it comes true within 20 s
	what=$1
	shift
	tries=0
	until "$@"; do
		tries=$((tries + 1))
		[ $tries -lt 100 ] || fail "not so after 20 s: $what"
		sleep 0.2
	done
	echo "ok: $what"
}
not() { ! "$@"; }
left() { ls /etc/resolver /Library/LaunchDaemons/dev.fairlead* /Library/PrivilegedHelperTools/dev.fairlead* /etc/newsyslog.d/fairlead* \
	/var/log/fairlead* /var/run/fairlead* /var/db/fairlead* /var/db/.fairlead* 2> /dev/null || true; }
pid() { launchctl print system/dev.fairlead.agent 2> /dev/null | sed -n 's/^[[:space:]]*pid = //p'; }
another() { now=$(pid) && [ -n "$now" ] && [ "$now" != "$1" ]; }
asked() { scutil --dns | grep -q 'domain   : docker$'; }
answers() { dscacheutil -q host -a name ns.docker | grep -q '^ip_address: 127\.0\.0\.1$'; }
in_force() { "$fairlead" status > /dev/null && ! "$fairlead" status | grep -q 'problem: resolver'; }

before=$(left)
"$fairlead" install
await "macOS asks for names in docker" asked
scutil --dns | grep -B 1 -A 5 'domain   : docker$'
await "a program gets the answer" answers
await "fairlead reads that back" in_force
first=$(pid)
kill -9 "$first"
await "launchd has started it again" another "$first"
await "a program gets the answer again" answers
"$fairlead" stop
await "stopped: macOS asks no more" not asked
"$fairlead" start
await "started: a program gets the answer" answers
"$fairlead" uninstall
await "uninstalled: macOS asks no more" not asked
[ "$(left)" = "$before" ] || fail "left behind: $(left)"
echo "ok: nothing is left"

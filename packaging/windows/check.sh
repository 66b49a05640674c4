#!/bin/bash
# Proves an MSI: that signing it works, by a certificate made for the purpose, and under Wine that it installs a service that
# runs, is upgraded by a newer one, refuses an older one, and leaves nothing. Usage: check.sh MSI DIR WINELAB; DIR is what
# msi.sh made it of. Without WINELAB, or without root for its network namespace, Wine's part is left out.
set -eu
msi=$1 dir=$2 lab=$3
cd "$(dirname "$0")/../.."
fail() { echo "packaging/windows/check.sh: $*" >&2; exit 1; }
work=$(mktemp -d)
ns=
clean() {
	if [ -n "$ns" ]; then
		wine stop > /dev/null 2>&1 || true
		ip netns del "$ns" 2> /dev/null || true
	fi
	rm -rf "$work"
}
trap clean EXIT
trap 'exit 1' INT TERM

if command -v osslsigncode > /dev/null && command -v openssl > /dev/null; then
	openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj '/CN=fairlead check' -addext extendedKeyUsage=codeSigning -keyout "$work/key" -out "$work/cert" 2> /dev/null
	for file in "$dir/fairlead.exe" "$msi"; do
		signed=$work/signed.${file##*.}
		cp "$file" "$work/plain"
		osslsigncode remove-signature -in "$file" -out "$work/bare" > /dev/null 2>&1 && mv "$work/bare" "$work/plain"
		osslsigncode sign -certs "$work/cert" -key "$work/key" -h sha256 -in "$work/plain" -out "$signed" > "$work/log" 2>&1 || { cat "$work/log"; fail "cannot sign $file"; }
		osslsigncode verify -CAfile "$work/cert" -in "$signed" > "$work/log" 2>&1 || { cat "$work/log"; fail "the signature of $signed is not valid"; }
		printf X | dd of="$signed" bs=1 seek=$(($(stat -c %s "$signed") / 2)) conv=notrunc 2> /dev/null
		! osslsigncode verify -CAfile "$work/cert" -in "$signed" > /dev/null 2>&1 || fail "a changed $signed still verifies"
	done
	echo "signatures: made, verified, broken by a changed byte"
elif [ "${CI:-}" = true ]; then
	fail "no osslsigncode to sign with: apt-get install osslsigncode"
fi

if [ -z "$lab" ] || [ ! -f "$lab/winelab.sh" ] || [ "$(id -u)" != 0 ]; then
	echo "no windows lab and root at hand: the MSI is made, not installed"
	exit 0
fi
ns=fairlead-msi-$$
export WINELAB_NETNS=$ns WINELAB_PREFIX=$work/prefix WINEDEBUG=-all
wine() { bash "$lab/winelab.sh" "$@"; }
ip netns add $ns
ip -n $ns link set lo up
wine start > "$work/log" 2>&1 || { cat "$work/log"; fail "the session does not start"; }
wine run reg add 'HKLM\SYSTEM\CurrentControlSet\Services\Dnscache\Parameters' /f > /dev/null # always there in Windows
wine run reg add 'HKLM\SYSTEM\CurrentControlSet\Services\EventLog\Application\Application' /f > /dev/null # likewise
drive=$work/prefix/drive_c installed='C:\Program Files\Fairlead\fairlead.exe'

# What an installation could leave behind. Wine's installer forgets a ";" when it takes our folder out of PATH.
state() {
	wine run reg export 'HKLM\SYSTEM\CurrentControlSet\Services' 'C:\winelab\state.reg' /y > /dev/null
	iconv -f utf-16 -t utf-8 "$drive/winelab/state.reg" | tr -d '\r'
	wine run reg query 'HKLM\SYSTEM\CurrentControlSet\Control\Session Manager\Environment' /v PATH | tr -d '\r' | sed 's/;*$//'
	wine run reg query 'HKLM\SOFTWARE\Microsoft\Windows\CurrentVersion\Uninstall' /s | tr -d '\r' | grep -i fairlead || true
	(cd "$drive" && find . ! -path './winelab*' ! -path '*/Temp/*' ! -path './windows/*' | sort)
}
msiexec() { timeout 120 bash "$lab/winelab.sh" run msiexec "$@" /qn > "$work/log" 2>&1; }
# runs WHEN: the service runs and answers, if not at once: its start is not waited for.
runs() {
	for _ in $(seq 300); do
		! wine run sc query fairlead | grep -q RUNNING || ! wine run "$installed" status > "$work/log" 2>&1 || return 0
		sleep 0.2
	done
	wine run sc query fairlead
	cat "$work/log"
	wine log
	fail "$1: the agent does not run"
}
path() { echo "Z:${1//\//\\}"; }

packaging/windows/msi.sh v0.0.1 "$dir" "$work/old.msi"
packaging/windows/msi.sh v99.0.0 "$dir" "$work/new.msi"
state > "$work/before"
msiexec /i "$(path "$(realpath "$msi")")" || { cat "$work/log"; fail "it does not install"; }
runs installed
diff -r "$dir" "$drive/Program Files/Fairlead" || fail "what is installed is not what was packed"
wine run reg query 'HKLM\SYSTEM\CurrentControlSet\Control\Session Manager\Environment' /v PATH | grep -q 'Program Files\\Fairlead' || fail "it is not in PATH"
wine log | grep -q 'FAILURE_ACTIONS.*type 1' || fail "nothing restarts the service when it fails"
agent() { # its process, which is Linux's, too
	for process in /proc/[0-9]*; do
		! grep -qzx "WINEPREFIX=$work/prefix" "$process/environ" 2> /dev/null || ! tr '\0' ' ' < "$process/cmdline" | grep -q '\\fairlead\.exe run' || echo "${process#/proc/}"
	done
}
killed=$(agent)
kill -KILL "$killed" || fail "there is not one agent, but: $killed"
for _ in $(seq 100); do
	now=$(agent)
	[ -z "$now" ] || [ "$now" = "$killed" ] || break
	sleep 0.2
done
[ -n "$now" ] && [ "$now" != "$killed" ] || fail "it was killed, and is not restarted"
runs "after a kill"
msiexec /i "$(path "$work/new.msi")" || { cat "$work/log"; fail "it is not upgraded"; }
runs upgraded
[ "$(wine run reg query 'HKLM\SOFTWARE\Microsoft\Windows\CurrentVersion\Uninstall' /s | grep -c 'DisplayName.*Fairlead')" = 1 ] || fail "an upgrade leaves two products"
! msiexec /i "$(path "$work/old.msi")" || fail "a newer one is replaced by an older one"
runs "after a refused downgrade"
msiexec /x "$(path "$work/new.msi")" || { cat "$work/log"; fail "it cannot be removed"; }
state > "$work/after"
diff "$work/before" "$work/after" || fail "this is left behind, or gone"
echo "under Wine: installed, upgraded, removed"

#!/bin/bash
# Makes zip, MSI (amd64), scoop and winget manifests of fairlead.exe, and checks each. Usage: package.sh VERSION EXES DIST [WINELAB];
# EXES has windows-amd64/fairlead.exe and windows-arm64/fairlead.exe; where WINELAB is at hand the MSI is installed, upgraded and removed there.
#
#   WINTUN=DIR                    the unpacked wintun zip: its DLL goes beside the program, as it is
#   SIGN_CERT=FILE SIGN_KEY=FILE  PEM; programs and MSI are signed by them. SIGN_TIMESTAMP=URL asks for a time stamp, too
#
# Needs zip, wixl and msitools, osslsigncode. Of these a missing one leaves out what needs it, and with CI=true is an error.
set -eu
tag=$1 exes=$(realpath "$2") winelab=${4:+$(realpath -m "$4")}
mkdir -p "$3" && dist=$(realpath "$3")
cd "$(dirname "$0")/../.."
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
fail() { echo "packaging/windows: $*" >&2; exit 1; }
have() {
	for tool in "$@"; do
		command -v "$tool" > /dev/null && continue
		[ "${CI:-}" != true ] || fail "$tool is missing: apt-get install zip unzip wixl msitools osslsigncode"
		echo "packaging/windows: without $tool, so not made or checked:" "$what" >&2
		return 1
	done
}
sum() { sha256sum "$1" | cut -d' ' -f1; }

# sign FILE...: by the certificate that the environment names; without one it does nothing.
sign() {
	[ -n "${SIGN_CERT:-}" ] || return 0
	for file in "$@"; do
		osslsigncode sign -certs "$SIGN_CERT" -key "$SIGN_KEY" -h sha256 -n Fairlead -i https://github.com/fairlead-dev/fairlead ${SIGN_TIMESTAMP:+-ts "$SIGN_TIMESTAMP"} \
			-in "$file" -out "$file.signed" > "$work/sign" 2>&1 || { cat "$work/sign" >&2; fail "cannot sign $file"; }
		mv "$file.signed" "$file"
	done
}

for arch in amd64 arm64; do
	dir=$work/$arch
	mkdir "$dir"
	cp "$exes/windows-$arch/fairlead.exe" README.md "$dir/"
	cp LICENSE "$dir/LICENSE.txt"
	if [ -n "${WINTUN:-}" ]; then
		cp "$WINTUN/bin/$arch/wintun.dll" "$dir/" && cp "$WINTUN/LICENSE.txt" "$dir/wintun-LICENSE.txt" || fail "WINTUN=$WINTUN is no unpacked wintun"
	fi
	sign "$dir/fairlead.exe"
	zip=$dist/fairlead-$tag-windows-$arch.zip what=$zip
	if have zip unzip; then
		rm -f "$zip"
		(cd "$dir" && zip -qX9 "$zip" ./*)
		mkdir "$work/unzip" && (cd "$work/unzip" && unzip -q "$zip")
		diff -r "$dir" "$work/unzip" || fail "$zip does not unpack to what was packed"
		rm -r "$work/unzip"
		echo "$zip"
	fi
done

msi=$dist/fairlead-$tag-windows-amd64.msi what=$msi
if have wixl msibuild msiinfo; then
	rm -f "$msi"
	packaging/windows/msi.sh "$tag" "$work/amd64" "$msi"
	sign "$msi"
	msiinfo extract "$msi" fairlead.cab > "$work/fairlead.cab"
	[ "$(msiinfo export "$msi" Property | tr -d '\r' | sed -n 's/^UpgradeCode\t//p')" = "{5D0E52A5-7BF1-4EA1-8EAD-F1EA1EAD0001}" ] || fail "$msi has another upgrade code"
	echo "$msi"
fi

# The manifests name what was made above.
if [ -f "$msi" ] && [ -f "$dist/fairlead-$tag-windows-arm64.zip" ]; then
	mkdir -p "$dist/winget"
	for source in packaging/windows/scoop.json packaging/windows/winget/*.yaml; do
		case $source in *.json) to=$dist/fairlead.scoop.json ;; *) to=$dist/winget/${source##*/} ;; esac
		sed "s|@VERSION@|${tag#v}|g; s|@TAG@|$tag|g; s|@SHA256-amd64.zip@|$(sum "$dist/fairlead-$tag-windows-amd64.zip")|
			s|@SHA256-arm64.zip@|$(sum "$dist/fairlead-$tag-windows-arm64.zip")|; s|@SHA256-amd64.msi@|$(sum "$msi" | tr a-f A-F)|
			s|@PRODUCT@|$(msiinfo export "$msi" Property | tr -d '\r' | sed -n 's/^ProductCode\t//p')|" "$source" > "$to"
		! grep -n '@[A-Z]' "$to" || fail "$to still lacks something"
		echo "$to"
	done
fi
[ ! -f "$msi" ] || packaging/windows/check.sh "$msi" "$work/amd64" "$winelab"

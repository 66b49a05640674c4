#!/bin/bash
# Packs what `make package` has built: dist/bin/OS-ARCH/fairlead[.exe]. Makes in dist an archive for every OS, flat packages for macOS,
# deb and rpm for Linux where dpkg and rpmbuild are at hand, the Homebrew formula, and SHA256SUMS; then unpacks and compares them.
# Usage: package.sh VERSION FAIRLEAD; VERSION as git describes it, FAIRLEAD a fairlead that runs here.
set -eu
tag=$1 fairlead=$(realpath "$2")
cd "$(dirname "$0")/.."
version=${tag#v}
# Of all files in packages: that of the commit, so that the same sources give the same bytes.
export SOURCE_DATE_EPOCH=${SOURCE_DATE_EPOCH:-$(git log -1 --format=%ct 2> /dev/null || echo 0)}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
fail() { echo "package.sh: $*" >&2; exit 1; }
sum() { if command -v sha256sum > /dev/null; then sha256sum "$@"; else shasum -a 256 "$@"; fi; }

mkdir "$work/completions"
"$fairlead" completion bash > "$work/completions/fairlead.bash"
"$fairlead" completion zsh > "$work/completions/_fairlead"
"$fairlead" completion fish > "$work/completions/fairlead.fish"
"$fairlead" completion powershell > "$work/completions/fairlead.ps1"

formula=$(sed "s|@VERSION@|$version|g; s|@TAG@|$tag|g" packaging/homebrew/fairlead.rb)
for bin in dist/bin/*; do
	target=${bin#dist/bin/} name=fairlead-$tag-${bin#dist/bin/}
	mkdir "$work/$name"
	cp -R "$bin"/. LICENSE README.md docs "$work/completions" "$work/$name/"
	tar -C "$work" -czf "dist/$name.tar.gz" "$name"
	formula=${formula//@$target@/$(sum "dist/$name.tar.gz" | cut -d' ' -f1)}
	echo "dist/$name.tar.gz"
done
case $formula in *@linux-*@* | *@darwin-*@*) fail "the formula still lacks a checksum" ;; esac
printf '%s\n' "$formula" > dist/fairlead.rb
! command -v ruby > /dev/null || ruby -wc dist/fairlead.rb > /dev/null || fail "the formula is no Ruby"
echo dist/fairlead.rb

# put MODE FILE PLACE: a copy in the tree $work/root.
put() {
	mkdir -p "$(dirname "$work/root$3")"
	cp "$2" "$work/root$3"
	chmod "$1" "$work/root$3"
}

# root BIN PREFIX: the tree that a package installs, in $work/root.
root() {
	rm -rf "$work/root"
	put 755 "$1" "$2/bin/fairlead"
	put 644 "$work/completions/_fairlead" "$2/share/zsh/site-functions/_fairlead"
	put 644 "$work/completions/fairlead.bash" "$2/share/bash-completion/completions/fairlead"
	put 644 "$work/completions/fairlead.fish" "$2/share/fish/vendor_completions.d/fairlead.fish"
	put 644 LICENSE "$2/share/doc/fairlead/LICENSE"
	put 644 README.md "$2/share/doc/fairlead/README.md"
}

for arch in arm64 amd64; do
	pkg=dist/fairlead-$tag-darwin-$arch.pkg
	root dist/bin/darwin-$arch/fairlead /usr/local
	go run ./packaging/macpkg -id dev.fairlead -version "$version" -arch "${arch/amd64/x86_64}" -title Fairlead -date "$SOURCE_DATE_EPOCH" \
		-scripts packaging/macos -o "$pkg" "$work/root"
	if command -v bsdtar > /dev/null; then # another's eyes
		mkdir "$work/$arch"
		bsdtar -xf "$pkg" -C "$work/$arch"
		mkdir "$work/$arch/root" && bsdtar -xpf "$work/$arch/dev.fairlead.pkg/Payload" -C "$work/$arch/root"
		diff -r "$work/root" "$work/$arch/root" > /dev/null || fail "$pkg does not unpack to what was packed"
		[ -x "$work/$arch/root/usr/local/bin/fairlead" ] || fail "$pkg: its program cannot be run"
		bsdtar -xOf "$work/$arch/dev.fairlead.pkg/Scripts" ./postinstall | cmp - packaging/macos/postinstall || fail "$pkg lacks its script"
	elif [ "${CI:-}" = true ]; then
		fail "no bsdtar to unpack $pkg with: apt-get install libarchive-tools"
	fi
	echo "$pkg"
done

if command -v dpkg-deb > /dev/null; then
	for arch in amd64 arm64; do
		deb=dist/fairlead-$tag-linux-$arch.deb
		root dist/bin/linux-$arch/fairlead /usr
		cp -R "$work/root" "$work/deb-$arch"
		mkdir "$work/deb-$arch/DEBIAN"
		case $version in [0-9]*.*) upstream=$version ;; *) upstream=0~$version ;; esac
		sed "s|@VERSION@|$upstream|; s|@ARCH@|$arch|; s|@SIZE@|$(du -sk "$work/root" | cut -f1)|" packaging/linux/control > "$work/deb-$arch/DEBIAN/control"
		install -m 755 packaging/linux/postinst packaging/linux/prerm "$work/deb-$arch/DEBIAN"
		dpkg-deb --root-owner-group -Zxz --build "$work/deb-$arch" "$deb" > /dev/null
		rm -r "$work/deb-$arch"
		dpkg-deb -x "$deb" "$work/deb-$arch" && dpkg-deb -e "$deb" "$work/deb-$arch/DEBIAN"
		cmp packaging/linux/prerm "$work/deb-$arch/DEBIAN/prerm"
		rm -r "$work/deb-$arch/DEBIAN"
		diff -r "$work/root" "$work/deb-$arch" > /dev/null || fail "$deb does not unpack to what was packed"
		echo "$deb"
	done
fi

if command -v rpmbuild > /dev/null; then
	for arch in amd64 arm64; do
		rpm=dist/fairlead-$tag-linux-$arch.rpm
		root dist/bin/linux-$arch/fairlead /usr
		case $version in [0-9]*.*) upstream=${version//-/+} ;; *) upstream=0~${version//-/+} ;; esac
		cp packaging/linux/postinst packaging/linux/prerm "$work/"
		sed "s|@VERSION@|$upstream|; s|@ROOT@|$work/root|; s|@SCRIPTS@|$work|" packaging/linux/fairlead.spec > "$work/fairlead.spec"
		target=${arch/amd64/x86_64}
		rpmbuild --quiet -bb --target "${target/arm64/aarch64}" --define "_topdir $work/rpm" --define "_dbpath $work/rpm/db" "$work/fairlead.spec" > "$work/log" 2>&1 ||
			{ cat "$work/log" >&2; fail "rpmbuild"; }
		mv "$work"/rpm/RPMS/*/*.rpm "$rpm"
		mkdir "$work/rpm-$arch"
		rpm2cpio "$rpm" | (cd "$work/rpm-$arch" && cpio --quiet -idm)
		diff -r "$work/root" "$work/rpm-$arch" > /dev/null || fail "$rpm does not unpack to what was packed"
		[ -x "$work/rpm-$arch/usr/bin/fairlead" ] || fail "$rpm: its program cannot be run"
		rpm -qp --nosignature --dbpath "$work/rpm/db" --scripts "$rpm" | grep -q 'fairlead uninstall' || fail "$rpm lacks its script"
		echo "$rpm"
	done
elif [ "${CI:-}" = true ]; then
	fail "no rpmbuild to make packages of: apt-get install rpm cpio"
fi

(cd dist && sum ./*.* > SHA256SUMS)
rm -rf dist/bin

#!/bin/bash
# Makes an MSI for amd64. Usage: msi.sh VERSION DIR OUT; DIR has fairlead.exe, LICENSE.txt, README.md and, to be put beside the
# program, perhaps wintun.dll with wintun-LICENSE.txt. VERSION as git describes it; MSI keeps its first three numbers.
set -eu
here=$(cd "$(dirname "$0")" && pwd) dir=$2 out=$(realpath "$3")
version=$(echo "${1#v}" | grep -oE '^[0-9]+\.[0-9]+\.[0-9]+' || echo 0.0.0)
source=$(mktemp --suffix=.wxs)
trap 'rm -f "$source"' EXIT
sed "$([ -f "$dir/wintun.dll" ] || echo '/<!-- wintun/,/<!-- end of wintun/d')" "$here/fairlead.wxs" > "$source"
(cd "$dir" && wixl -a x64 -D VERSION="$version" -o "$out" "$source")
rows() { msibuild "$out" -q "$1" || { echo "msi.sh: $1" >&2; exit 1; }; }
rows 'CREATE TABLE `Environment` (`Environment` CHAR(72) NOT NULL, `Name` CHAR(255) NOT NULL LOCALIZABLE, `Value` CHAR(255) LOCALIZABLE, `Component_` CHAR(72) NOT NULL PRIMARY KEY `Environment`)'
# Behind what is there of the system's PATH, and taken out of it again: "=" set, "-" remove, "*" system.
rows "INSERT INTO \`Environment\` (\`Environment\`, \`Name\`, \`Value\`, \`Component_\`) VALUES ('Path', '=-*PATH', '[~];[INSTALLDIR]', 'Program')"
for action in RemoveEnvironmentStrings:3300 WriteEnvironmentStrings:5200; do
	rows "INSERT INTO \`InstallExecuteSequence\` (\`Action\`, \`Condition\`, \`Sequence\`) VALUES ('${action%:*}', '', ${action#*:})"
done
# "#%" is an expandable string. The rest of the key is TypesSupported.
rows "INSERT INTO \`Registry\` (\`Registry\`, \`Root\`, \`Key\`, \`Name\`, \`Value\`, \`Component_\`) VALUES ('EventMessageFile', 2, 'SYSTEM\\CurrentControlSet\\Services\\EventLog\\Application\\fairlead', 'EventMessageFile', '#%%SystemRoot%\\System32\\EventCreate.exe', 'Events')"
# What the service has made, once it has stopped and taken everything back; settings that somebody wrote there stay.
for file in 'lock' 'JOURNA~1.JSO|journal.json'; do # short name, long name
	rows "INSERT INTO \`RemoveFile\` (\`FileKey\`, \`Component_\`, \`FileName\`, \`DirProperty\`, \`InstallMode\`) VALUES ('${file#*|}', 'State', '$file', 'STATEDIR', 2)"
done
# Another build of the same version is an upgrade, too (msidbUpgradeAttributesVersionMaxInclusive).
rows "DELETE FROM \`Upgrade\` WHERE \`ActionProperty\` = 'WIX_UPGRADE_DETECTED'"
rows "INSERT INTO \`Upgrade\` (\`UpgradeCode\`, \`VersionMax\`, \`Attributes\`, \`ActionProperty\`) VALUES ('{5D0E52A5-7BF1-4EA1-8EAD-F1EA1EAD0001}', '$version', 513, 'WIX_UPGRADE_DETECTED')"
# The service takes everything back before it ends, and its file is busy until its process has; our own stop waits for both
# (34 a command in a folder, 64 whatever comes of it, 1024 in the script, 2048 as the system).
rows "INSERT INTO \`CustomAction\` (\`Action\`, \`Type\`, \`Source\`, \`Target\`) VALUES ('EndService', 3170, 'INSTALLDIR', '\"[INSTALLDIR]fairlead.exe\" stop')"
rows "INSERT INTO \`InstallExecuteSequence\` (\`Action\`, \`Condition\`, \`Sequence\`) VALUES ('EndService', 'Installed OR WIX_UPGRADE_DETECTED', 1890)"

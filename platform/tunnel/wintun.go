package tunnel

import (
	"fmt"
	"strings"
)

// What Windows' end of a tunnel says and is called. The device is a Wintun adapter, whose driver comes with wintun.dll: that is
// not ours to have inside, only to lie beside us (its licence).

// adapterName is that of the n-th tunnel's adapter.
func adapterName(n int) string { return fmt.Sprintf("fairlead%d", n) }

// adapterGUID is always the same, so that Windows takes the adapter for a network that it has seen before, and does not
// keep a new one of each start.
func adapterGUID(n int) string { return fmt.Sprintf("{f1ea1ead-7c0e-4d0b-8a45-%012x}", n) }

// freeAdapter is the lowest number whose name no adapter has: one by that name is somebody else's, or another tunnel's.
func freeAdapter(names []string) int {
	n := 0
	for i := 0; i < len(names); {
		if strings.EqualFold(names[i], adapterName(n)) {
			n, i = n+1, 0
			continue
		}
		i++
	}
	return n
}

// wintunTrouble explains why there is no adapter: the code of Windows' error (System Error Codes), where fairlead.exe lies,
// and GOARCH. Both are empty where there is nothing to add.
func wintunTrouble(code uint32, dir, arch string) (what, hint string) {
	const (
		accessDenied   = 5
		modNotFound    = 126
		procNotFound   = 127
		badExeFormat   = 193
		imageMachine   = 216 // for another processor
		invalidHash    = 577 // not signed as drivers have to be
		privilegeUnmet = 1314
	)
	take := fmt.Sprintf("take wintun.dll of https://www.wintun.net, from the archive's folder wintun\\bin\\%s, and put it into %s", arch, dir)
	switch code {
	case modNotFound:
		return "wintun.dll is missing", take
	case procNotFound:
		return "wintun.dll is too old", take
	case badExeFormat, imageMachine:
		return "wintun.dll is for another processor", take
	case invalidHash:
		return "Windows does not trust wintun.dll's driver", take
	case accessDenied, privilegeUnmet:
		return "only Administrators may make a network adapter", "have the service do it: fairlead install, in a terminal opened with \"Run as administrator\""
	}
	return "", ""
}

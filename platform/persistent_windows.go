package platform

import (
	"slices"

	"golang.org/x/sys/windows/registry"
)

// PersistentRoutes are the rows that Windows makes at each start, as `route -p add` wrote them down:
// "172.17.0.0,255.255.0.0,10.0.75.2,1".
func PersistentRoutes() []string {
	k, err := registry.OpenKey(registry.LOCAL_MACHINE, `SYSTEM\CurrentControlSet\Services\Tcpip\Parameters\PersistentRoutes`, registry.QUERY_VALUE)
	if err != nil {
		return nil
	}
	defer k.Close()
	names, _ := k.ReadValueNames(maxEntries)
	slices.Sort(names)
	return names
}

//go:build !windows

package platform

// PersistentRoutes are none: only Windows keeps routes by itself.
func PersistentRoutes() []string { return nil }

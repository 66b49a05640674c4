//go:build !windows

package routes

// PersistentRows are none: only Windows keeps routes by itself.
func PersistentRows() []Persistent { return nil }

func forgetPersistent([]string) error  { return nil }
func restorePersistent([]string) error { return nil }

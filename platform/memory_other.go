//go:build !linux

package platform

import "runtime/debug"

// Shrink gives memory back that only what was done so far has needed.
func Shrink() { debug.FreeOSMemory() }

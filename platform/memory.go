package platform

import "runtime/debug"

// Shrink gives memory back that only what was done so far has needed: what the heap has free, and the pages of the program.
func Shrink() {
	debug.FreeOSMemory()
	ShrinkProgram()
}

//go:build !linux

package platform

// ShrinkProgram gives the pages of the program itself back, where the OS does not do that as it sees fit.
func ShrinkProgram() {}

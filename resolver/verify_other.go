//go:build !windows && !darwin

package resolver

import "context"

// Verify is for other systems: here what Read finds has effect.
func Verify(context.Context, Method, Want) error { return nil }

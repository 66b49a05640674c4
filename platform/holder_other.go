//go:build !linux && !darwin && !windows

package platform

import "net/netip"

// PortHolder finds nobody: this OS is not covered yet.
func PortHolder(string, netip.AddrPort) (p Process, ok bool) { return p, false }

// Processes are not known: this OS is not covered yet.
func Processes() []string { return nil }

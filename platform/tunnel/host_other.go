//go:build !linux && !darwin

package tunnel

import (
	"errors"
	"fmt"
	"net/netip"
	"runtime"

	"golang.zx2c4.com/wireguard/tun"
)

func openHost(int) (tun.Device, error) {
	return nil, fmt.Errorf("fairlead has no tunnel on %s yet: %w", runtime.GOOS, errors.ErrUnsupported)
}

func configureHost(string, Link) ([]netip.Addr, error) { return nil, errors.ErrUnsupported }

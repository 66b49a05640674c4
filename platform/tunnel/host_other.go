//go:build !linux && !darwin && !windows

package tunnel

import (
	"errors"
	"fmt"
	"net/netip"
	"runtime"
)

func openHost(int) (*hostEnd, error) {
	return nil, fmt.Errorf("fairlead has no tunnel on %s yet: %w", runtime.GOOS, errors.ErrUnsupported)
}

func configureHost(string, Link) ([]netip.Addr, error) { return nil, errors.ErrUnsupported }

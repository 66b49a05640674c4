//go:build !linux

package tunnel

import (
	"errors"
	"fmt"
)

func openPilotPort(Link, *prover) (port, linked, error) {
	return nil, linked{}, fmt.Errorf("pilots run on Linux: %w", errors.ErrUnsupported)
}

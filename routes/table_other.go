//go:build !linux && !darwin && !windows

package routes

import (
	"context"
	"errors"
	"fmt"
)

var errNotYet = fmt.Errorf("routes: not on this OS yet: %w", errors.ErrUnsupported)

// List returns errors.ErrUnsupported.
func List() ([]Entry, error) { return nil, errNotYet }

// Watch returns errors.ErrUnsupported.
func Watch(context.Context, func()) error { return errNotYet }

func add(Route) error    { return errNotYet }
func remove(Route) error { return errNotYet }

func exact(Entry) ([]byte, error) { return nil, errNotYet }
func (Saved) takeOut() error      { return errNotYet }
func (Saved) putBack() error      { return errNotYet }

//go:build !linux && !darwin && !windows

package resolver

import (
	"context"
	"errors"
	"fmt"
)

var methods []Method

const notYet = "fairlead cannot tell this OS yet whom to ask; names are answered to whoever asks our port"

// Detect turns a --resolver word into a method that works on this host, and says why.
func Detect(_ context.Context, mode string) (m Method, why string, err error) {
	if _, err := Parse(mode); err != nil {
		return "", "", err
	}
	return None, notYet, nil
}

// Read finds everything on this OS that carries our mark.
func Read(context.Context) ([]Entry, error) { return nil, nil }

// Apply makes the steps in their order.
func Apply(_ context.Context, p Plan) []Result {
	var results []Result
	for _, s := range p.Steps {
		results = append(results, Result{s, fmt.Errorf("%v: %w", s, errors.ErrUnsupported)})
	}
	return results
}

// Flush makes the OS forget answers that it has cached.
func Flush(context.Context, Method) error { return nil }

// Watch calls changed when something happened after which Read may find less than before. It returns nil when ctx ends.
func Watch(ctx context.Context, _ Method, _ func()) error {
	<-ctx.Done()
	return nil
}

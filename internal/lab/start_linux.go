package lab

import (
	"os"
	"testing"
)

// Need skips the test where no world can be made; with CI=true it fails the test instead.
func Need(t testing.TB) {
	t.Helper()
	if err := Check(); err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatal(err)
		}
		t.Skip(err)
	}
}

// Start makes a world that ends with the test, where one can be made (Need). What it leaves behind fails the test.
func Start(t testing.TB, opts Options) *World {
	t.Helper()
	Need(t)
	w, err := New(t.Context(), opts)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := w.Close(); err != nil {
			t.Error(err)
		}
	})
	return w
}

// StartVM is World.VM for tests: with images loaded, and an error ends the test.
func (w *World) StartVM(t testing.TB, opts VMOptions) *VM {
	t.Helper()
	vm, err := w.VM(t.Context(), opts)
	if err == nil {
		err = vm.LoadImages(t.Context())
	}
	if err != nil {
		t.Fatal(err)
	}
	return vm
}

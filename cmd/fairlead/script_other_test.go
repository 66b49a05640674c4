//go:build !linux

package main

import "github.com/rogpeppe/go-internal/testscript"

func enterWorld() {}

func hostState(*testscript.TestScript) string { return "" }

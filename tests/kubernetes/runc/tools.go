//go:build tools

// Package runc pins the program that starts the containers of a genuine cluster.
package runc

import _ "github.com/opencontainers/runc"

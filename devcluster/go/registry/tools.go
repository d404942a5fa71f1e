//go:build tools

// Package registry pins the command that the embedded cluster builds.
package registry

import _ "github.com/distribution/distribution/v3/cmd/registry"

//go:build tools

// Package coredns pins the command that the embedded cluster builds.
package coredns

import _ "github.com/coredns/coredns"

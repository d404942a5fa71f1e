//go:build tools

// Package versitygw pins the command that the embedded cluster builds.
package versitygw

import _ "github.com/versity/versitygw/cmd/versitygw"

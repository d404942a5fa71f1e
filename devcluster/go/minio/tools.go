//go:build tools

// Package minio pins the command that the embedded cluster builds.
package minio

import _ "github.com/minio/minio"

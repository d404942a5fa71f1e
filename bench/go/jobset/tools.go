//go:build tools

// Package jobset pins the peer's controller that the burst benchmark builds.
package jobset

import _ "sigs.k8s.io/jobset"

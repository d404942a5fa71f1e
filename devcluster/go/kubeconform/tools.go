//go:build tools

// Package kubeconform pins the command that the embedded cluster builds.
package kubeconform

import _ "github.com/yannh/kubeconform/cmd/kubeconform"

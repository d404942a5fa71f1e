//go:build tools

// Package helm pins the command that the embedded cluster builds.
package helm

import _ "helm.sh/helm/v4/cmd/helm"

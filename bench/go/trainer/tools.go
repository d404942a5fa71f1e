//go:build tools

// Package trainer pins the peer's controller that the burst benchmark builds.
package trainer

import _ "github.com/kubeflow/trainer/v2/cmd/trainer-controller-manager"

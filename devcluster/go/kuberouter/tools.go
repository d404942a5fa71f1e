//go:build tools

// Package kuberouter pins the controller that enforces NetworkPolicies.
package kuberouter

import _ "github.com/cloudnativelabs/kube-router/v2/cmd/kube-router"

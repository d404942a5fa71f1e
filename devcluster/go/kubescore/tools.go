//go:build tools

// Package kubescore pins the scanner of the chart's tests.
package kubescore

import _ "github.com/zegl/kube-score/cmd/kube-score"

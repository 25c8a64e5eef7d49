//go:build tools

// Package kubectl pins the kubectl that the tests drive where none new enough is on PATH.
package kubectl

import _ "k8s.io/kubernetes/cmd/kubectl"

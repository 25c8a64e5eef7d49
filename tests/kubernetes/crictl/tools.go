//go:build tools

// Package crictl pins the CRI's command line.
package crictl

import _ "sigs.k8s.io/cri-tools/cmd/crictl"

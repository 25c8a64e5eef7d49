//go:build tools

// Package flannel pins flannel's CNI plugin, as the reference plugins had it before flannel took it over.
package flannel

import _ "github.com/containernetworking/plugins/plugins/meta/flannel"

//go:build tools

// Package etcd pins the store of a genuine cluster and its client.
package etcd

import (
	_ "go.etcd.io/etcd/etcdctl/v3"
	_ "go.etcd.io/etcd/server/v3"
)

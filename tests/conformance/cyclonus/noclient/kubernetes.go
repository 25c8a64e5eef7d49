// Package kube, in one page less: in place of cyclonus' client of a genuine cluster, which nobody here needs. To build that
// client takes longer than everything else.
package kube

// Kubernetes is the client's name.
type Kubernetes struct{ IKubernetes }

"""Genuine Kubernetes on a lab's nodes: argument vectors and settings of each component (pure), images prepared once and
shared by all nodes, a registry that serves them, and the first objects of such a cluster.

Knows no lab: it is told paths and values."""

"""The node daemon: composes kube, calc, render and kernel; serves the CNI socket; health and metrics."""

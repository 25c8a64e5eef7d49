"""What kubelet and a CRI runtime do, for a lab: sandboxes, CNI, containers, probes, volumes, logs, streams, images."""

"""The only room that touches the kernel: netlink, nftables, namespaces, and the reconciler that makes tables equal."""

"""Pure: node state to rows of kernel tables (routes, neighbours, FDB entries, nftables text)."""

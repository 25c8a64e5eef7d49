"""Pure calculation: from the cluster (nodes, pools, blocks, pods) to what one node must hold, and why.

In: objects from `model`. Out: node state. Knows neither the kernel nor the API.
"""

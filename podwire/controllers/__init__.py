"""The control loops of the lab's cluster: scheduler, workloads, endpoints, nodes, namespaces, garbage.

In: objects, through any `Api`. Out: the writes that bring what is to what should be. Each noun has its decisions as
pure functions and a Controller that feeds them; `loop` runs controllers, `cache` is the picture of the cluster that
they share. Knows no store, socket or kernel, and nothing of who serves the API.
"""

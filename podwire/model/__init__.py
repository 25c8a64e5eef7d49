"""Values: what Kubernetes and Calico objects mean, decoded and checked.

In: parsed JSON. Out: values, or an error that names the field. Knows no socket, file, clock or process.
"""

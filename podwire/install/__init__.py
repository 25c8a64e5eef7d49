"""Podwire onto a genuine cluster: its manifests as values, their text, the chart, and how they are applied and removed.

The pages that say what is installed are pure: options in, objects out. `apply` and `remove` speak to the API.
"""

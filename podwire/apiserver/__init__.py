"""The lab API server: a store with revisions, and the Kubernetes API over it as an unmodified kubectl expects it."""

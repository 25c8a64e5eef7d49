"""The only client of the Kubernetes API: get, list, watch, write; a fake with the same manners."""

"""Podwire: a complete pod network for Kubernetes, and a lab to run it in."""

__version__ = "0.1.0"

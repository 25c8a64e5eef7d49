"""Where things are inside a node."""

from __future__ import annotations

from pathlib import Path

PKI = Path("/etc/kubernetes/pki")
CLUSTER = Path("/var/lib/podwire/cluster")  # the API's database, on the control plane's node only

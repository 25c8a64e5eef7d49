"""What the supervisor is handed at birth, and what it hands to each node: values and open sockets."""

from __future__ import annotations

import json
import os
import socket
from dataclasses import dataclass, field
from pathlib import Path

from podwire.lab.ports import Opened
from podwire.lab.rootfs import Host
from podwire.lab.state import LabState
from podwire.lab.topology import LabPlan


@dataclass(frozen=True, slots=True)
class Genuine:
    """Of a lab of genuine Kubernetes: the folders of its programs and of its images, and the descriptor that keeps the
    latter from being cleared away."""

    programs: Path
    store: Path
    held: int


@dataclass(slots=True)
class Job:
    """A lab to carry: `api` is the loopback socket of the host; `cgroup` is empty where cgroups cannot be used."""

    plan: LabPlan
    state: LabState
    host: Host
    shim: Path
    api: socket.socket
    mappings: list[Opened]
    cgroup: str
    report: int
    """A pipe to the command that waits; -1 when it has gone."""
    genuine: Genuine | None = None
    inside: list[socket.socket] = field(default_factory=list)
    """The API's listening sockets in the control plane's node."""

    @property
    def cache(self) -> Path:
        """Podwire's cache on the host, seen at the same path in every node."""
        return Path(self.host.cache)

    def tell(self, **words: str) -> None:
        """One line to the waiting command; silently nothing when it has gone."""
        if self.report < 0:
            return
        try:
            os.write(self.report, json.dumps(words).encode() + b"\n")
        except OSError:
            self.report = -1

    def done(self) -> None:
        """Nothing more to tell."""
        if self.report >= 0:
            os.close(self.report)
            self.report = -1

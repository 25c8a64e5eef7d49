"""What a check of policies finds. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from podwire.observe.manifests import Manifest
from podwire.observe.policyparts import CALICO, PolicyParts
from podwire.observe.policyscene import Endpoint, Scene, title

ERROR, WARNING, HINT = "error", "warning", "hint"


@dataclass(frozen=True, slots=True)
class Finding:
    """`level` is error (does not do what it says), warning (in all likelihood not meant) or hint. `field` is the path
    in the object, `where` file and line ('' from a cluster)."""

    level: str
    kind: str
    object: str
    field: str
    problem: str
    remedy: str
    where: str = ""


@dataclass(frozen=True, slots=True)
class Written:
    """A policy with the manifest that it stands in."""

    manifest: Manifest
    parts: PolicyParts

    @property
    def calico(self) -> bool:
        """Written in projectcalico.org's own rules."""
        own = self.manifest.object["apiVersion"].startswith(f"{CALICO}/")
        return own and self.parts.kind != "StagedKubernetesNetworkPolicy"

    def finding(self, level: str, kind: str, path: str, problem: str, remedy: str) -> Finding:
        return Finding(level, kind, title(self.manifest.object), path, problem, remedy, self.manifest.where(path))

    def selected(self, scene: Scene) -> list[Endpoint]:
        """The pods that it governs."""
        return [pod for pod in scene.pods.values() if not pod.host and self.parts.subject.pods(pod)]

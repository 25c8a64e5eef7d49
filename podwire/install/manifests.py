"""Everything that is installed, in the order in which it must be there; and its text. Pure."""

from __future__ import annotations

from typing import Any

import yaml

from podwire import __version__
from podwire.install import confinement, daemon, rbac
from podwire.install.options import Options, check
from podwire.ipam.crds import crds, default_pool
from podwire.ipam.layout import NATIVE, stored_gvr
from podwire.model import policycrds
from podwire.model.gvr import IPPOOLS

Object = dict[str, Any]

LABELS = {"app.kubernetes.io/name": "podwire", "app.kubernetes.io/part-of": "podwire"}
OWNER = "podwire-install"
"""Field manager of server-side apply."""


def kinds(options: Options) -> list[Object]:
    """The CustomResourceDefinitions of IPAM; none where Calico's older layout holds the state: they are its own."""
    return [] if options.classic else [_labelled(crd) for crd in crds()]


def policy_kinds(options: Options) -> list[Object]:
    """Those of policies; Calico's own kinds stay in the older layout where they are."""
    found = policycrds.crds()
    if options.classic:
        found = [crd for crd in found if crd["spec"]["group"] != NATIVE]
    return [_labelled(crd) for crd in found]


def tiers() -> list[Object]:
    """The tiers that are always there."""
    return [_labelled(tier) for tier in policycrds.first_tiers()]


def pool(options: Options) -> Object:
    """The pool that a cluster without one begins with."""
    made = default_pool(options.pod_cidr, block_size=options.block_size, vxlan=options.encapsulation)
    if options.classic:
        made["apiVersion"] = stored_gvr(IPPOOLS).api_version
    return _labelled(made)


def workload(options: Options, text: str | None = None, mark: str | None = None) -> list[Object]:
    """Who the agent is, what it may do, and the agent. The policy comes before the right that it confines.

    `text` and `mark` take the place of the settings' text and its digest (the chart has others)."""
    text = daemon.settings(options) if text is None else text
    return [
        *([_namespace(options)] if options.namespace != "kube-system" else []),
        *confinement.objects(options, LABELS),
        *rbac.objects(options, LABELS),
        *daemon.objects(
            options,
            {**LABELS, "app.kubernetes.io/component": "agent", "app.kubernetes.io/version": __version__},
            text,
            daemon.digest(text) if mark is None else mark,
        ),
    ]


def everything(options: Options) -> list[Object]:
    """All that one `kubectl apply` can take, in order; pool and tiers are of kinds that must be served before, and come
    by themselves. Raises OptionError."""
    check(options)
    return [*kinds(options), *policy_kinds(options), *workload(options)]


def text(objects: list[Object]) -> str:
    """As one stream of YAML documents."""
    return "".join("---\n" + document(each) for each in objects)


class _Plain(yaml.SafeDumper):
    """No anchors (people read it), and texts of several lines as such."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def _string(dumper: yaml.SafeDumper, value: str) -> yaml.ScalarNode:
    return dumper.represent_scalar("tag:yaml.org,2002:str", value, style="|" if "\n" in value else None)


_Plain.add_representer(str, _string)


def document(one: Object) -> str:
    """One object as YAML."""
    made: str = yaml.dump(one, Dumper=_Plain, sort_keys=False, width=1_000_000)
    return made


def _namespace(options: Options) -> Object:
    """One in which pods of the node's network may run."""
    labels = {**LABELS, "pod-security.kubernetes.io/enforce": "privileged"}
    return {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": options.namespace, "labels": labels}}


def _labelled(one: Object) -> Object:
    return {**one, "metadata": {**one["metadata"], "labels": LABELS}}

"""Network sets: prefixes that selectors find by labels. Source: projectcalico.org/v3 NetworkSet, GlobalNetworkSet."""

from __future__ import annotations

from dataclasses import dataclass

import msgspec

from podwire.model.address import Cidr
from podwire.model.calicopolicy import noted_metadata
from podwire.model.portlists import prefix
from podwire.model.terms import NAMESPACE
from podwire.model.written import Notes, PolicyError, Written, spec_of


class NetworkSetSpec(msgspec.Struct, frozen=True):
    nets: list[str] = []


@dataclass(frozen=True, slots=True)
class NetworkSet:
    """`namespace` is '' for a GlobalNetworkSet; `labels` are its own."""

    namespace: str
    name: str
    nets: tuple[Cidr, ...]
    labels: dict[str, str]
    problems: tuple[str, ...] = ()


def network_set(record: Written, notes: Notes) -> NetworkSet:
    """Host bits are cut off, a bare address is itself, and what cannot be read is left out. Raises PolicyError if it
    has no list of prefixes."""
    spec = spec_of(record, NetworkSetSpec, notes)
    found: dict[Cidr, None] = {}
    for place, text in enumerate(spec.nets):
        try:
            found[prefix(text, f"spec.nets[{place}]", bare=True)] = None
        except PolicyError as error:
            notes.wrong(error)
    labels = dict(record.metadata.labels)
    noted = (noted_metadata(record.metadata) or {}).get("labels")
    if isinstance(noted, dict):
        labels |= {str(key): str(value) for key, value in noted.items()}
    if NAMESPACE in labels:
        notes.wrong(PolicyError(f"metadata.labels[{NAMESPACE}]", "may not be given: it says where the set lies"))
        del labels[NAMESPACE]
    return NetworkSet(record.metadata.namespace, record.metadata.name, tuple(found), labels, notes.texts)

"""What one attachment asks of IPAM. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Wish:
    """`facts` (namespace, pod, type) are kept with the addresses. One address of each of `families` (4, 6) is wanted,
    in this order. `pools` are names or CIDRs asked for by annotation or configuration, in place of the automatic
    choice; those of a family count for that family. `exact` are the very addresses wanted, at most one a family.
    `namespace_labels` are matched by the pools' namespaceSelector.
    """

    handle: str
    facts: Mapping[str, str] = field(default_factory=dict)
    families: tuple[int, ...] = (4,)
    pools: tuple[str, ...] = ()
    exact: tuple[str, ...] = ()
    namespace_labels: Mapping[str, str] = field(default_factory=dict)
    use: str = "Workload"

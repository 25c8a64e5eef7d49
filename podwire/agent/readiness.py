"""Whether an ADD could be served now: the answer to STATUS."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from podwire.agent.claimer import Claimer
from podwire.agent.health import Health
from podwire.agent.othernetworks import PART as OTHER_NETWORK
from podwire.cni import spec
from podwire.cni.spec import CniError
from podwire.model.ippool import IPPool


class Readiness:
    """`pools` are those that the API last told; `blocks` says that the claimer's addresses come from them."""

    def __init__(
        self, health: Health, claimer: Claimer, pools: Callable[[], Iterable[IPPool]], *, blocks: bool
    ) -> None:
        self._health = health
        self._claimer = claimer
        self._pools = pools
        self._blocks = blocks

    def check(self) -> None:
        """All but addresses. Raises CniError: 51 when the datapath is damaged, so that running pods suffer too, else
        50. Another network's configuration beside ours keeps no pod from starting: a node that turned NotReady for it
        would lose its pods to somebody's mistake."""
        reasons = {part: why for part, why in self._health.reasons.items() if part != OTHER_NETWORK}
        if why := reasons.get("datapath"):
            raise CniError(spec.LIMITED, "the node's datapath is damaged", why)
        if reasons:
            raise CniError(spec.UNAVAILABLE, "not ready", "; ".join(f"{part}: {why}" for part, why in reasons.items()))

    def check_ipam(self, families: Iterable[int]) -> None:
        """Addresses alone, one of each family. Raises CniError 50."""
        if not self._claimer.ready:
            raise CniError(spec.UNAVAILABLE, "not ready", "the agent has not yet learned what the cluster holds")
        usable = {pool.cidr.width for pool in self._pools() if pool.usable and pool.allows("Workload")}
        if not self._blocks:
            return
        for family in families:
            if (128 if family == 6 else 32) not in usable:
                text = f"no IPPool of IPv{family} is enabled for workloads"
                raise CniError(spec.UNAVAILABLE, "no address can be assigned", text)

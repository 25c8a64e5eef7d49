"""Whether an ADD could be served now: the answer to STATUS."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from podwire.agent.claimer import Claimer
from podwire.agent.health import Health
from podwire.cni import spec
from podwire.cni.spec import CniError
from podwire.model.ippool import IPPool


class Readiness:
    """`pools` are those that the API last told."""

    def __init__(self, health: Health, claimer: Claimer, pools: Callable[[], Iterable[IPPool]]) -> None:
        self._health = health
        self._claimer = claimer
        self._pools = pools

    def check(self) -> None:
        """Raises CniError: 51 when the datapath is damaged, so that running pods suffer too, else 50."""
        reasons = dict(self._health.reasons)
        if why := reasons.get("datapath"):
            raise CniError(spec.LIMITED, "the node's datapath is damaged", why)
        if reasons:
            raise CniError(spec.UNAVAILABLE, "not ready", "; ".join(f"{part}: {why}" for part, why in reasons.items()))
        self.check_ipam()

    def check_ipam(self) -> None:
        """Addresses alone. Raises CniError 50."""
        if not self._claimer.ready:
            raise CniError(spec.UNAVAILABLE, "not ready", "the agent has not yet learned what the cluster holds")
        if not any(pool.usable and pool.allows("Workload") for pool in self._pools()):
            raise CniError(spec.UNAVAILABLE, "no address can be assigned", "no IPPool is enabled for workloads")

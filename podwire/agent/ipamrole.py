"""Addresses alone: the plugin type `podwire-ipam`, by which reference `bridge`, `ptp` or `macvlan` use our blocks.

The answer has no interfaces. Its addresses carry the node's podCIDR as prefix (`cni.subnet`) and a gateway, which is
an address of the node's own, claimed once for each network: `bridge` with isGateway gives it to the bridge.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence

import msgspec

from podwire.agent import wiring as wire
from podwire.agent.attachments import DELETED, IPAM, READY, WIRING, Attachment, Attachments
from podwire.agent.claimer import Claimer
from podwire.agent.pods import Pods
from podwire.agent.points import reached
from podwire.agent.readiness import Readiness
from podwire.agent.reaper import Reaper
from podwire.agent.wiring import Sockets
from podwire.cni import asked, capabilities, plan, spec, subnet
from podwire.cni.spec import Address, CniError, Destination, Request, Result
from podwire.ipam.wish import Wish
from podwire.model.address import Cidr
from podwire.model.ippool import IPPool

log = logging.getLogger(__name__)


class Addresses:
    """The role. `boot` gives the identity of this boot and namespace, for the record."""

    def __init__(
        self,
        node: str,
        pods: Pods,
        records: Attachments,
        sockets: Sockets,
        reaper: Reaper,
        claimer: Claimer,
        readiness: Readiness,
        boot: Callable[[], str],
        pools: Callable[[], Sequence[IPPool]],
        pod_cidrs: Callable[[], tuple[str, ...]],
    ) -> None:
        self._node = node
        self._pods = pods
        self._records = records
        self._sockets = sockets
        self._reaper = reaper
        self._claimer = claimer
        self._readiness = readiness
        self._boot = boot
        self._pools = pools
        self._pod_cidrs = pod_cidrs
        self._gateways: dict[tuple[str, int], str] = {}
        self._guard = threading.Lock()

    def add(self, request: Request, inner: int) -> Result:
        form, routes = subnet.prefix_form(request.config), subnet.routes(request.config)
        key = (request.container_id, request.interface, "ipam")
        known = self._records.get(key)
        if known is not None and known.state != READY:
            self._reaper.finish(key)
        record = known if known is not None and known.state == READY else self._claim(request)
        try:
            return self._result(request, record.addresses, form, routes)
        except BaseException:
            self._give_up(record)
            raise

    def _claim(self, request: Request) -> Attachment:
        wanted = asked.asked(request, self._pods.facts(request))
        for name, values in ((asked.FLOATING_IPS, wanted.floating), (asked.SOURCES, wanted.sources)):
            if not values:
                continue
            text = f"annotation {name} of pod {request.namespace}/{request.pod} cannot be kept"
            raise CniError(spec.BAD_CONFIG, text, "Podwire gives addresses here, and another plugin wires: remove it")
        record = _record(request, self._boot())
        self._claimer.require()
        first = not self._records.bridged()
        self._records.put(record)
        reached("recorded")
        if first:
            wire.drop_blackholes(self._sockets.route())
        pending = self._claimer.claim(asked.wish(request, self._node, wanted))
        try:
            done = msgspec.structs.replace(record, addresses=pending.addresses(), state=READY)
            reached("claimed")
            self._records.put(done)
            reached("ready")
        except BaseException:
            self._give_up(record)
            raise
        log.info("assigned pod=%s/%s addresses=%s", request.namespace, request.pod, ",".join(done.addresses))
        return done

    def _give_up(self, record: Attachment) -> None:
        try:
            self._records.put(msgspec.structs.replace(record, state=DELETED))
        except OSError as error:
            log.error("undo failed handle=%s error=%s", record.handle, error)
            return
        self._reaper.add(record.key)

    def _result(
        self, request: Request, addresses: tuple[str, ...], form: str, routes: tuple[tuple[str, str], ...]
    ) -> Result:
        blocks = [(pool.cidr, pool.block_size) for pool in self._pools() if pool.sound]
        ips = []
        for address in addresses:
            prefix = subnet.subnet(address, form, self._pod_cidrs(), blocks)
            gateway = "" if prefix.single else self._gateway(request, plan.family(address))
            if gateway and not prefix.covers(Cidr.parse(gateway)):
                gateway = ""
            ips.append(Address(f"{address}/{prefix.length}", gateway))
        told = tuple(Destination(destination, gateway) for destination, gateway in routes)
        return Result(ips=tuple(ips), routes=told, dns=capabilities.dns(request))

    def _gateway(self, request: Request, family: int) -> str:
        """The network's gateway on this node. Raises CniError 11."""
        with self._claimer.turns.waiting(), self._guard:
            known = self._gateways.get((request.network, family))
            if known is None:
                handle = f"podwire-ipam-gateway.{request.network}.{self._node}.{family}"
                facts = {"node": self._node, "type": "gatewayAddress"}
                known = self._claimer.claim(Wish(handle, facts, families=(family,))).addresses()[0]
                self._gateways[request.network, family] = known
            return known

    def delete(self, request: Request, inner: int | None) -> None:
        # also without a record: an allocation may have outlived it
        key = (request.container_id, request.interface, "ipam")
        record = self._records.get(key) or _record(request, self._boot())
        self._records.put(msgspec.structs.replace(record, state=DELETED))
        reached("deleted")
        self._reaper.add(key)

    def check(self, request: Request, inner: int) -> None:
        if request.previous is None:
            raise CniError(spec.BAD_CONFIG, "CHECK needs prevResult")
        record = self._records.get((request.container_id, request.interface, "ipam"))
        if record is None or record.state != READY:
            raise CniError(spec.UNKNOWN_CONTAINER, "no such attachment", f"{request.container_id} {request.interface}")
        told = {address.address.partition("/")[0] for address in request.previous.ips}
        if missing := [address for address in record.addresses if address not in told]:
            raise CniError(spec.DRIFT, "prevResult lacks addresses of the attachment", ", ".join(missing))

    def collect(self, request: Request) -> None:
        """Nothing is left without a record but what the collector of leaks finds."""

    def status(self, request: Request) -> None:
        self._readiness.check_ipam(asked.asked(request).families)


def _record(request: Request, boot: str) -> Attachment:
    return Attachment(
        container_id=request.container_id,
        interface=request.interface,
        network=request.network,
        netns=request.netns,
        host_name="",
        pod_mac="",
        mtu=0,
        handle=plan.handle(request),
        namespace=request.namespace,
        pod=request.pod,
        uid=request.uid,
        boot=boot,
        role=IPAM,
        state=WIRING,
    )

"""The bridge wiring, kubenet's shape: pods are ports of one bridge, whose own address is their gateway.

The bridge is made when the first pod comes and stays. Addresses come from host-local's files in this process, or from
blocks (`podwire-ipam`), and are given back by the reaper once the pod's link is gone. The same call may come again at
any time. What a port may send and get is the guard's matter; a port is closed until its admission.
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from errno import EEXIST

import msgspec

from podwire.agent import bridgewire, files, guard, onrecord
from podwire.agent import wiring as wire
from podwire.agent.attachments import BRIDGE, DELETED, READY, Attachment, Attachments
from podwire.agent.claimer import Claimer
from podwire.agent.extras import Extras
from podwire.agent.files import Files
from podwire.agent.guard import Guard
from podwire.agent.pods import Pods
from podwire.agent.points import reached
from podwire.agent.policygate import PolicyGate
from podwire.agent.reaper import Reaper
from podwire.agent.wiring import Sockets
from podwire.cni import asked as asking
from podwire.cni import bridgeplan, capabilities, plan, spec
from podwire.cni.bridgeplan import BridgePlan, Ends
from podwire.cni.result import Destination
from podwire.cni.spec import CniError, Request, Result
from podwire.ipam import hostlocal
from podwire.ipam.hostlocal import Given
from podwire.ipam.hostranges import HostLocalError, Plan
from podwire.kernel import bridges
from podwire.kernel.netlink import KernelError

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Asked:
    """What a call's configuration says: the bridge's shape, routes and DNS of the IPAM section, files if it has any."""

    shape: BridgePlan
    files: Plan | None
    routes: tuple[Destination, ...] = ()


class Bridge:
    """Collaborators as with the routed role; `files` and `guard` are shared with the roles that use them, too."""

    def __init__(
        self,
        node: str,
        mtu: Callable[[], int],
        pods: Pods,
        records: Attachments,
        sockets: Sockets,
        guard: Guard,
        reaper: Reaper,
        claimer: Claimer,
        files: Files,
        extras: Extras,
        gate: PolicyGate,
        boot: Callable[[], str],
        features: asking.Features,
    ) -> None:
        self._features = features
        self._node = node
        self._mtu = mtu
        self._pods = pods
        self._records = records
        self._sockets = sockets
        self._guard = guard
        self._reaper = reaper
        self._claimer = claimer
        self._files = files
        self._extras = extras
        self._gate = gate
        self._boot = boot
        self._bridges: dict[str, threading.Lock] = {}
        self._lock = threading.Lock()

    # -- ADD ------------------------------------------------------------------------------------------------------

    def add(self, request: Request, inner: int) -> Result:
        asked = _asked(request)
        key = (request.container_id, request.interface, "")
        known = self._records.get(key)
        if known is not None and known.state == READY:
            if known.role == BRIDGE and not self._faults(asked, known, inner):
                return self._result(request, asked, bridgewire.ends(self._sockets.route(), known))
            raise CniError(spec.INTERNAL, "attachment exists but is damaged", "DEL it first")
        if known is not None:
            self._reaper.finish(key)
        self._guard.prepare()
        self._evict(plan.host_name(request))
        wanted = self._wanted(request) if asked.files is None else None
        record = self._begin(request, asked, wanted)
        try:
            given = self._addresses(request, asked, wanted)
            reached("claimed")
            record = self._with(record, asked, request, given)
            ends = self._wire(asked, record, inner)
            self._records.put(msgspec.structs.replace(record, state=READY))
            reached("ready")
        except BaseException:
            self._undo(record)
            raise
        log.info("attached pod=%s/%s addresses=%s", request.namespace, request.pod, ",".join(record.addresses))
        return self._result(request, asked, ends)

    def _wanted(self, request: Request) -> asking.Asked:
        """What the pod asks for. Raises CniError 7 for what a port of a bridge cannot have."""
        wanted = asking.asked(request, self._pods.facts(request), self._features)
        if wanted.sources:
            text = f"annotation {asking.SOURCES} of pod {request.namespace}/{request.pod} cannot be kept"
            raise CniError(spec.BAD_CONFIG, text, "ports of a bridge send from their own addresses only: remove it")
        return wanted

    def _begin(self, request: Request, asked: Asked, wanted: asking.Asked | None) -> Attachment:
        record = Attachment(
            container_id=request.container_id,
            interface=request.interface,
            network=request.network,
            netns=request.netns,
            host_name=plan.host_name(request),
            pod_mac=capabilities.mac(request),
            mtu=asked.shape.mtu or self._mtu(),
            handle=files.handle(request, asked.files) if asked.files else plan.handle(request),
            namespace=request.namespace,
            pod=request.pod,
            uid=request.uid,
            boot=self._boot(),
            role=BRIDGE,
            bridge=asked.shape.bridge,
            ports=capabilities.port_mappings(request),
            limits=capabilities.bandwidth(request),
            floating=wanted.floating if wanted else (),
            masquerade=asked.shape.masquerade and asked.files is not None,  # else the pool says
            hairpin=asked.shape.hairpin,
            promiscuous=asked.shape.promiscuous,
            bridge_gateway=asked.shape.gateway,
            default_gateway=asked.shape.default_gateway,
        )
        if asked.files is None:
            self._claimer.require()
        first = not self._records.bridged()
        self._records.put(record)
        reached("recorded")
        if first:  # the datapath, which keeps blackholes away from now on, may not come to it for a while
            wire.drop_blackholes(self._sockets.route())
        return record

    def _addresses(self, request: Request, asked: Asked, wanted: asking.Asked | None) -> list[Given]:
        if wanted is None:
            assert asked.files is not None
            return self._files.assign(request, asked.files)
        found = self._claimer.claim(asking.wish(request, self._node, wanted)).addresses()
        return [Given(plan.host_prefix(address), plan.gateway(address)) for address in found]

    def _with(self, record: Attachment, asked: Asked, request: Request, given: list[Given]) -> Attachment:
        """The record with its addresses, and with a MAC that goes with them."""
        bare = tuple(one.cidr.partition("/")[0] for one in given)
        four = next((address for address in bare if ":" not in address), "")
        return msgspec.structs.replace(
            record,
            addresses=bare,
            gateways=tuple(bridgeplan.gateway_cidr(one.cidr, one.gateway) for one in given),
            pod_mac=record.pod_mac or (bridges.mac_of(four) if four else plan.mac_from(os.urandom(6))),
        )

    def _wire(self, asked: Asked, record: Attachment, inner: int) -> Ends:
        socket = self._sockets.route()
        with self._alone(record.bridge):
            bridge = bridgewire.ensure_bridge(socket, asked.shape, record.mtu, record.gateways)
        reached("host")
        ends = replace(bridgewire.ends(socket, record), bridge_mac=bridge.mac)
        try:
            port = bridgewire.create_port(socket, ends, bridge.index, inner, hairpin=asked.shape.hairpin)
        except KernelError as error:
            if error.errno == EEXIST:
                raise CniError(spec.INTERNAL, f"interface {ends.pod_name} already exists in the pod") from error
            raise
        reached("created")
        ends = replace(ends, host_mac=port.mac)
        bridgewire.address_pod(ends, asked.routes, inner, default=asked.shape.default_gateway)
        bridgewire.reach(socket, ends, bridge.index)
        reached("pod")
        if record.masquerade:
            self._guard.masquerade({bridgeplan.subnet_of(text) for text in record.gateways}, record.addresses)
        self._extras.attach(record)
        reached("extras")
        self._gate.expect(record)
        self._gate.bind(record)
        self._guard.admit(guard.endpoint_of(record))
        reached("admitted")
        bridgewire.await_forwarding(socket, ends.host_name)
        return ends

    @contextmanager
    def _alone(self, bridge: str) -> Iterator[None]:
        """Two first pods do not make the same bridge."""
        with self._lock:
            lock = self._bridges.setdefault(bridge, threading.Lock())
        with lock:
            yield

    def _result(self, request: Request, asked: Asked, ends: Ends) -> Result:
        dns = capabilities.dns(request)
        if not dns and asked.files is not None:
            try:
                dns = hostlocal.dns_of(asked.files.resolv_conf)
            except HostLocalError as error:
                raise CniError(spec.BAD_CONFIG, str(error)) from None
        return bridgeplan.result(request, ends, asked.routes, dns, default=asked.shape.default_gateway)

    def _evict(self, name: str) -> None:
        """A retry of the same pod by another sandbox: the former one loses the name, and its address with its DEL."""
        owner = self._records.owner(name)
        if owner is not None:
            log.warning("host interface taken over name=%s from=%s", name, owner.container_id)
            self._retire(owner)
        elif wire.doom_host(self._sockets.route(), name, ()):
            self._reaper.wake()

    def _undo(self, record: Attachment) -> None:
        try:
            self._retire(record)
        except (KernelError, OSError) as error:
            # the record still says "wiring": the next start takes it from there
            log.error("undo failed interface=%s error=%s", record.host_name, error)

    def _retire(self, record: Attachment) -> None:
        """Out of use at once; link and addresses are the reaper's. Raises KernelError, OSError."""
        socket = self._sockets.route()
        self._extras.detach(record)
        if record.pod_mac:
            self._guard.expel(guard.endpoint_of(record))
            self._gate.unbind(record.host_name)
        wire.doom_host(socket, record.host_name, ())
        bridgewire.forget(socket, record.bridge, record.addresses)
        reached("doomed")
        if record.masquerade:
            self._guard.unmask(record.addresses)
        self._records.put(msgspec.structs.replace(record, state=DELETED))
        reached("deleted")
        self._reaper.add(record.key)

    # -- DEL ------------------------------------------------------------------------------------------------------

    def delete(self, request: Request, inner: int | None) -> None:
        record = self._records.get((request.container_id, request.interface, "")) or self._orphan(request)
        owner = self._records.owner(record.host_name)
        if owner is None or owner.key == record.key:
            self._retire(record)
        else:  # the name, and what it stands for, are another sandbox's by now
            self._extras.detach(msgspec.structs.replace(record, limits=None))
            self._records.put(msgspec.structs.replace(record, state=DELETED))
            self._reaper.add(record.key)
        if inner is not None:
            try:
                wire.doom_pod(request.interface, inner, self._sockets.home())
            except KernelError as error:
                log.info("pod side not reachable netns=%s error=%s", request.netns, error)
        log.info("detached pod=%s/%s addresses=%s", record.namespace, record.pod, ",".join(record.addresses))

    def _orphan(self, request: Request) -> Attachment:
        try:
            asked = _asked(request)
            handle = files.handle(request, asked.files) if asked.files else plan.handle(request)
        except CniError:
            handle = plan.handle(request)
        return onrecord.orphan(request, BRIDGE, handle)

    # -- CHECK, GC, STATUS ----------------------------------------------------------------------------------------

    def check(self, request: Request, inner: int) -> None:
        record, previous = onrecord.to_check(self._records, request)
        asked = _asked(request)
        faults = self._faults(asked, record, inner)
        told = [address.address.partition("/")[0] for address in previous.ips]
        if missing := [address for address in record.addresses if address not in told]:
            faults.append(f"prevResult has {', '.join(told) or 'no address'}, the attachment {', '.join(missing)}")
        if asked.files is not None:
            held = self._files.store(asked.files.directory, request.network).held(files.owner_of(request))
            faults += [f"{one} is not reserved" for one in record.addresses if one not in held]
        if faults:
            raise CniError(spec.DRIFT, "the attachment is damaged", "; ".join(faults))

    def _faults(self, asked: Asked, record: Attachment, inner: int) -> list[str]:
        socket = self._sockets.route()
        faults = bridgewire.faults(socket, asked.shape, bridgewire.ends(socket, record), inner)
        faults += self._extras.faults(record)
        missing = self._guard.missing(guard.endpoint_of(record))
        return faults + [f"{record.host_name} is not admitted in {name}" for name in missing]

    def collect(self, request: Request) -> None:
        """Ports and files that no record knows."""
        asked, socket = _asked(request), self._sockets.route()
        bridge = socket.link_index(asked.shape.bridge)
        found = [p for p in bridges.ports(socket) if p.bridge == bridge and p.name.startswith(plan.PREFIX)]
        known = {record.host_name for record in self._records.all()}
        for port in found:
            if port.name not in known:
                log.warning("left-over port removed name=%s", port.name)
                wire.doom_index(socket, port.index, ())
                self._extras.forget(port.name)
                self._reaper.wake()
        if asked.files is not None and request.valid is not None:
            live = {record.key[:2] for record in self._records.all()} | request.valid
            for one in self._files.store(asked.files.directory, request.network).collect(live):
                log.warning("left-over reservation released address=%s container=%s", one.address, one.owner[0])

    def status(self, request: Request) -> None:
        asked = _asked(request)
        if asked.files is None and not self._claimer.ready:
            raise CniError(spec.UNAVAILABLE, "not ready", "the agent has not yet learned what the cluster holds")
        link = self._sockets.route().link(asked.shape.bridge)
        if link is not None and link.kind != "bridge":
            raise CniError(spec.UNAVAILABLE, f"{asked.shape.bridge} is a {link.kind or 'device'}, not a bridge")


def _asked(request: Request) -> Asked:
    """Raises CniError."""
    shape = bridgeplan.load(request.config)
    if shape.ipam != "host-local":
        return Asked(shape, None)
    loaded = files.load(request)
    return Asked(shape, loaded, files.routes(loaded))

"""Behind another plugin: it wires the pod (flannel, the reference's bridge or ptp), Podwire admits. Canal's way.

ADD finds the host's end of the pod's veth pair, puts it on record, and closes it to everything but the addresses of
prevResult, which is passed on as it came. DEL comes before the other plugin's (chains are unwound backwards): the
interface stays governed, and so closed, until it is gone.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

import msgspec

from podwire.agent import guard, onrecord
from podwire.agent.admission import Admission, speaker_of
from podwire.agent.attachments import CHAINED, DELETED, READY, Attachment, Attachments
from podwire.agent.extras import Extras
from podwire.agent.guard import Guard
from podwire.agent.policygate import PolicyGate
from podwire.agent.reaper import Reaper
from podwire.agent.wiring import Sockets
from podwire.cni import capabilities, spec
from podwire.cni.plan import PREFIX
from podwire.cni.spec import CniError, Request, Result
from podwire.kernel import netns
from podwire.kernel.links import Link, RouteSocket

log = logging.getLogger(__name__)


class Chained:
    """Collaborators as with the routed role."""

    def __init__(
        self,
        records: Attachments,
        sockets: Sockets,
        admission: Admission,
        guard: Guard,
        reaper: Reaper,
        extras: Extras,
        gate: PolicyGate,
        boot: Callable[[], str],
    ) -> None:
        self._records = records
        self._sockets = sockets
        self._admission = admission
        self._guard = guard
        self._reaper = reaper
        self._extras = extras
        self._gate = gate
        self._boot = boot

    def add(self, request: Request, inner: int) -> Result:
        if request.previous is None:
            raise CniError(spec.BAD_CONFIG, "chained wiring needs prevResult: another plugin must come first")
        self.sweep()
        host, pod = self._ends(request, inner)
        addresses = _addresses(request.previous, request)
        if not addresses:
            raise CniError(spec.BAD_CONFIG, f"prevResult has no address for {request.interface}")
        record = Attachment(
            container_id=request.container_id,
            interface=request.interface,
            network=request.network,
            netns=request.netns,
            host_name=host.name,
            pod_mac=pod.mac,
            mtu=pod.mtu,
            handle="",
            addresses=addresses,
            namespace=request.namespace,
            pod=request.pod,
            uid=request.uid,
            state=READY,
            boot=self._boot(),
            role=CHAINED,
            ports=capabilities.port_mappings(request),
            limits=capabilities.bandwidth(request),
        )
        known = self._records.get(record.key)
        if known is not None and (known.host_name, known.addresses) != (record.host_name, record.addresses):
            self._expel(known)
        self._records.put(record)
        try:
            self._extras.attach(record)
            self._gate.expect(record)
            self._gate.bind(record)
            self._admit(record)
        except BaseException:
            self.delete(request, inner)
            raise
        log.info("adopted pod=%s/%s interface=%s addresses=%s", record.namespace, record.pod, host.name, addresses)
        return request.previous

    def _ends(self, request: Request, inner: int) -> tuple[Link, Link]:
        """Both ends of the pod's veth pair. Raises CniError 7 when it has none that leads to this namespace."""
        with netns.inside(inner):
            inside = RouteSocket()
        with inside:
            pod = inside.link(request.interface)
        if pod is None:
            raise CniError(spec.BAD_CONFIG, f"the plugin before made no interface {request.interface} in the pod")
        found = [link for link in self._sockets.route().links() if link.index == pod.parent and link.kind == "veth"]
        if pod.kind != "veth" or not found or found[0].parent != pod.index:
            raise CniError(
                spec.BAD_CONFIG,
                f"{request.interface} is a {pod.kind or 'device'} without an end on the node",
                "Podwire can follow what makes a veth pair (bridge, ptp, flannel), not macvlan, ipvlan or host-device",
            )
        return found[0], pod

    def _admit(self, record: Attachment) -> None:
        if record.host_name.startswith(PREFIX):
            self._admission.admit(speaker_of(record))
        self._guard.admit(guard.endpoint_of(record))

    def _expel(self, record: Attachment) -> None:
        """No address may be used any more; a governed interface stays so, as long as it is there."""
        if record.host_name.startswith(PREFIX):
            self._admission.expel(record.host_name)
        self._guard.close(guard.endpoint_of(record))
        self._gate.unbind(record.host_name)
        self.sweep()

    def sweep(self) -> None:
        """Interfaces that were closed and are gone need not be governed any more. Raises KernelError."""
        self._guard.sweep(self._present)

    def _present(self, name: str) -> bool:
        return self._sockets.route().link_index(name) is not None

    def delete(self, request: Request, inner: int | None) -> None:
        record = self._records.get((request.container_id, request.interface, ""))
        if record is None:
            self.sweep()
            return
        owner = self._records.owner(record.host_name)
        if owner is None or owner.key == record.key:
            self._expel(record)
            self._extras.detach(record, host_stays=True)
        else:
            self._extras.detach(msgspec.structs.replace(record, limits=None))
        self._records.put(msgspec.structs.replace(record, state=DELETED))
        self._reaper.add(record.key)

    def check(self, request: Request, inner: int) -> None:
        record, previous = onrecord.to_check(self._records, request)
        host, pod = self._ends(request, inner)
        faults = []
        if (host.name, pod.mac) != (record.host_name, record.pod_mac):
            faults.append(f"the pair is {host.name} and {pod.mac} now, was {record.host_name} and {record.pod_mac}")
        told = _addresses(previous, request)
        if set(told) != set(record.addresses):
            faults.append(f"prevResult has {', '.join(told) or 'no address'}, admitted {', '.join(record.addresses)}")
        faults += self._extras.faults(record)
        missing = self._guard.missing(guard.endpoint_of(record))
        faults += [f"{record.host_name} is not admitted in {name}" for name in missing]
        if faults:
            raise CniError(spec.DRIFT, "the attachment is damaged", "; ".join(faults))

    def collect(self, request: Request) -> None:
        """Interfaces that are governed for nobody on record, and gone."""
        for name in self._guard.sweep(self._present, nobodys=True):
            log.warning("left-over rules removed interface=%s", name)

    def status(self, request: Request) -> None:
        """Always able."""


def _addresses(previous: Result, request: Request) -> tuple[str, ...]:
    """Those of the pod's interface: entries that name it, or name none."""
    found = []
    for one in previous.ips:
        if one.interface is not None:
            interface = previous.interfaces[one.interface]
            if interface.name != request.interface or not interface.sandbox:
                continue
        found.append(one.address.partition("/")[0])
    return tuple(dict.fromkeys(found))

"""The role `bandwidth`, chained behind whatever made a veth pair: the limits of the reference plugin of that name."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace

import msgspec

from podwire.agent import bandwidth, behind
from podwire.agent.attachments import READY, Attachment, Attachments
from podwire.agent.extras import Extras
from podwire.agent.wiring import Sockets
from podwire.cni import capabilities, spec
from podwire.cni.spec import CniError, Interface, Request, Result
from podwire.kernel.links import RouteSocket

log = logging.getLogger(__name__)

BANDWIDTH = "bandwidth"
_REFUSED = ("shapedSubnets", "unshapedSubnets")


class Limiter:
    """`boot` gives the identity of this boot and namespace, for the record."""

    def __init__(self, records: Attachments, sockets: Sockets, extras: Extras, boot: Callable[[], str]) -> None:
        self._records = records
        self._sockets = sockets
        self._extras = extras
        self._boot = boot

    def add(self, request: Request, inner: int) -> Result:
        previous = behind.chained(request)
        limits = _limits(request)
        if limits is None:
            self.delete(request, inner)
            return previous
        empty = behind.record(request, BANDWIDTH, self._boot())
        record = msgspec.structs.replace(
            empty, host_name=host_end(self._sockets.route(), request.interface, inner), limits=limits
        )
        self._records.put(record)
        try:
            self._extras.attach(record)
            self._records.put(msgspec.structs.replace(record, state=READY))
        except BaseException:
            self.delete(request, inner)
            raise
        log.info("bandwidth limited pod=%s/%s interface=%s", request.namespace, request.pod, record.host_name)
        return self._result(previous, record)

    def delete(self, request: Request, inner: int | None) -> None:
        key = (request.container_id, request.interface, BANDWIDTH)
        record = self._records.get(key)
        if record is not None:
            self._extras.detach(record, host_stays=True)
            self._records.remove(key)

    def check(self, request: Request, inner: int) -> None:
        behind.chained(request)
        limits = _limits(request)
        record = self._records.get((request.container_id, request.interface, BANDWIDTH))
        if record is None and limits is None:
            return
        if record is None or record.state != READY:
            raise CniError(spec.UNKNOWN_CONTAINER, "no such attachment", f"{request.container_id} {request.interface}")
        faults = self._extras.faults(record)
        if limits is not None and limits != record.limits:
            faults.append("the attachment was made with other limits")
        if faults:
            raise CniError(spec.DRIFT, "bandwidth limits are damaged", "; ".join(faults))

    def collect(self, request: Request) -> None:
        """Nothing is there without a record."""

    def status(self, request: Request) -> None:
        behind.ready(self._extras)

    def _result(self, previous: Result, record: Attachment) -> Result:
        """With the ifb among the interfaces, at the end: indexes of addresses stay right."""
        middle = self._sockets.route().link(bandwidth.ifb_name(record.host_name))
        if middle is None or any(interface.name == middle.name for interface in previous.interfaces):
            return previous
        added = Interface(middle.name, middle.mac, middle.mtu)
        return replace(previous, interfaces=(*previous.interfaces, added))


def _limits(request: Request) -> capabilities.Bandwidth | None:
    refused = [name for name in _REFUSED if request.config.get(name)]
    if refused:
        raise CniError(spec.UNSUPPORTED_FIELD, f"{', '.join(refused)} of bandwidth is not supported", "leave it out")
    return capabilities.bandwidth(request, configured=True)


def host_end(socket: RouteSocket, name: str, inner: int) -> str:
    """The node's end of the veth pair whose other end is the pod's interface `name`. Raises CniError 7."""
    with RouteSocket(netns_fd=inner) as pod:
        own = pod.link(name)
    if own is None:
        raise CniError(spec.BAD_CONFIG, f"the pod has no interface {name}", "a plugin before this one must make it")
    peers = (link for link in socket.links() if link.index == own.parent and link.parent == own.index)
    found = next((link for link in peers if link.kind == own.kind == "veth"), None)
    if found is None:
        raise CniError(
            spec.BAD_CONFIG, f"{name} is not one end of a veth pair to this node", f"it is of kind {own.kind or '?'}"
        )
    return found.name

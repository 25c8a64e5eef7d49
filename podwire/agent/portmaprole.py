"""The role `portmap`, chained behind whatever wired the pod: host ports as the reference plugin of that name has them.

Beyond it: what is on record is taken away by DEL and GC without `runtimeConfig`, a port is one attachment's only, and
the agent's start restores what is missing. There is no backend to choose; conditions and foreign chains of iptables
have no meaning here and are refused.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

import msgspec

from podwire.agent import behind
from podwire.agent.attachments import READY, Attachment, Attachments
from podwire.agent.extras import MASK_ALL, NO_SNAT, Extras
from podwire.agent.wiring import Sockets
from podwire.cni import capabilities, spec
from podwire.cni.spec import CniError, Request, Result

log = logging.getLogger(__name__)

PORTMAP = "portmap"
_REFUSED = ("conditionsV4", "conditionsV6", "externalSetMarkChain")


class PortMap:
    """`boot` gives the identity of this boot and namespace, for the record."""

    def __init__(self, records: Attachments, sockets: Sockets, extras: Extras, boot: Callable[[], str]) -> None:
        self._records = records
        self._sockets = sockets
        self._extras = extras
        self._boot = boot

    def add(self, request: Request, inner: int) -> Result:
        previous = behind.chained(request)
        record = self._planned(request, previous)
        known = self._records.get(record.key)
        if known is not None and not record.ports:
            self.delete(request, inner)
        if not record.ports:
            return previous
        self._records.put(record)
        try:
            self._extras.attach(record)
            self._records.put(msgspec.structs.replace(record, state=READY))
        except BaseException:
            self.delete(request, inner)
            raise
        log.info("host ports given pod=%s/%s count=%d", request.namespace, request.pod, len(record.ports))
        return previous

    def delete(self, request: Request, inner: int | None) -> None:
        key = (request.container_id, request.interface, PORTMAP)
        record = self._records.get(key)
        if record is not None:
            self._extras.detach(record, host_stays=True)
            self._records.remove(key)

    def check(self, request: Request, inner: int) -> None:
        planned = self._planned(request, behind.chained(request))
        record = self._records.get(planned.key)
        if record is None and not planned.ports:
            return
        if record is None or record.state != READY:
            raise CniError(spec.UNKNOWN_CONTAINER, "no such attachment", f"{request.container_id} {request.interface}")
        faults = self._extras.faults(record)
        if planned.ports and (planned.ports, planned.addresses) != (record.ports, record.addresses):
            faults.append("the attachment was made with other ports or addresses")
        if faults:
            raise CniError(spec.DRIFT, "host ports are damaged", "; ".join(faults))

    def collect(self, request: Request) -> None:
        """Nothing is there without a record: the table's elements are the records'."""

    def status(self, request: Request) -> None:
        behind.ready(self._extras)

    def _planned(self, request: Request, previous: Result) -> Attachment:
        refused = [name for name in _REFUSED if request.config.get(name)]
        if refused:
            raise CniError(spec.UNSUPPORTED_FIELD, f"{', '.join(refused)} of portmap is not supported", "leave it out")
        nat = MASK_ALL if request.config.get("masqAll") else NO_SNAT if request.config.get("snat") is False else ""
        ports = capabilities.port_mappings(request)
        addresses = tuple(behind.pod_addresses(previous))
        empty = behind.record(request, PORTMAP, self._boot())
        return msgspec.structs.replace(empty, addresses=addresses, ports=ports, nat=nat)

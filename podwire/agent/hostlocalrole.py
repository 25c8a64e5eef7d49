"""The role `host-local`: addresses alone, from files, for another plugin that wires (the reference's bridge, ptp, …).

Nothing is on record but the files: they are the reference's format, and whoever has the directory goes on with it.
Unlike the reference it answers a repeated ADD with the same addresses, and it knows GC and STATUS.
"""

from __future__ import annotations

import logging

from podwire.agent import files
from podwire.agent.files import Files
from podwire.cni import capabilities, spec
from podwire.cni.result import Address
from podwire.cni.spec import CniError, Request, Result
from podwire.ipam import hostlocal
from podwire.ipam.hostranges import HostLocalError

log = logging.getLogger(__name__)


class HostLocalRole:
    """`files` are the stores, shared with whoever else uses them."""

    def __init__(self, files: Files) -> None:
        self._files = files

    def add(self, request: Request, inner: int) -> Result:
        plan = files.load(request)
        dns = capabilities.dns(request) or self._dns(plan.resolv_conf)
        ways = files.routes(plan)
        given = self._files.assign(request, plan)
        return Result(ips=tuple(Address(one.cidr, one.gateway) for one in given), routes=ways, dns=dns)

    def _dns(self, path: str) -> dict[str, object]:
        try:
            return hostlocal.dns_of(path)
        except HostLocalError as error:
            raise CniError(spec.BAD_CONFIG, str(error)) from None

    def delete(self, request: Request, inner: int | None) -> None:
        plan = files.load(request)
        try:
            self._files.store(plan.directory, request.network).release(files.owner_of(request))
        except HostLocalError as error:
            raise CniError(spec.BAD_CONFIG, str(error)) from None

    def check(self, request: Request, inner: int) -> None:
        plan = files.load(request)
        if not self._files.store(plan.directory, request.network).held(files.owner_of(request)):
            text = f"host-local: Failed to find address added by container {request.container_id}"
            raise CniError(spec.UNKNOWN_CONTAINER, text)

    def collect(self, request: Request) -> None:
        if request.valid is None:
            return
        plan = files.load(request)
        for one in self._files.store(plan.directory, request.network).collect(request.valid):
            log.info("stale reservation released address=%s container=%s", one.address, one.owner[0])

    def status(self, request: Request) -> None:
        self._files.usable(request)

"""Addresses from host-local's files, for the roles that take them there: stores by directory, and their release.

A record names such addresses by a handle of its own kind, so that the reaper, which gives back every role's addresses
once their links are gone, knows where they came from.
"""

from __future__ import annotations

import threading

from podwire.cni import spec
from podwire.cni.result import Destination, decode
from podwire.cni.spec import CniError, Request
from podwire.ipam import hostlocal, hostranges
from podwire.ipam.hostlocal import Owner, Store
from podwire.ipam.hostranges import HostLocalError, Plan

_KIND = "host-local "


def load(request: Request) -> Plan:
    """The call's plan. Raises CniError 7 with the reference's words."""
    try:
        return hostranges.load(request.config, request.runtime, request.args)
    except HostLocalError as error:
        raise CniError(spec.BAD_CONFIG, str(error)) from None


def routes(plan: Plan) -> tuple[Destination, ...]:
    """The plan's routes as a result's. Raises CniError 6."""
    return decode({"routes": [dict(route) for route in plan.routes]}, "ipam").routes


class Files:
    """The stores in use."""

    def __init__(self) -> None:
        self._stores: dict[tuple[str, str], Store] = {}
        self._guard = threading.Lock()

    def store(self, directory: str, network: str) -> Store:
        with self._guard:
            key = (directory, network)
            if key not in self._stores:
                self._stores[key] = Store(directory, network, hostlocal.this_boot())
            return self._stores[key]

    def assign(self, request: Request, plan: Plan) -> list[hostlocal.Given]:
        """Raises CniError: 11 while a range set is exhausted, else 7; OSError."""
        try:
            return self.store(plan.directory, request.network).assign(owner_of(request), plan.sets, plan.wanted)
        except HostLocalError as error:
            raise CniError(spec.TRY_AGAIN if error.exhausted else spec.BAD_CONFIG, str(error)) from None

    def usable(self, request: Request) -> None:
        """Whether addresses could be kept for such calls now. Raises CniError: 7, or 50."""
        plan = load(request)
        try:
            self.store(plan.directory, request.network).reservations()
        except (OSError, HostLocalError) as error:
            raise CniError(spec.UNAVAILABLE, "addresses cannot be kept", str(error)) from None

    def release(self, handle: str) -> bool:
        """Give back what the handle names; False for a handle of another kind. Raises OSError, HostLocalError."""
        if not from_files(handle):
            return False
        folder, container, interface = handle.removeprefix(_KIND).rsplit(" ", 2)
        directory, _, network = folder.rpartition("/")
        self.store(directory or "/", network).release((container, interface))
        return True


def owner_of(request: Request) -> Owner:
    return request.container_id, request.interface


def from_files(handle: str) -> bool:
    """Whether a handle's addresses are host-local's."""
    return handle.startswith(_KIND)


def handle(request: Request, plan: Plan) -> str:
    """Names the attachment's addresses in the plan's directory."""
    return f"{_KIND}{plan.directory.rstrip('/')}/{request.network} {request.container_id} {request.interface}"

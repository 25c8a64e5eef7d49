"""What a role must be able to do, and which role a call is for: the name by which the shim was called, or the wiring
that the configuration asks for.

A role gets a parsed request; the attacher has made sure that no other call for the same attachment runs meanwhile.
Each method raises CniError, KernelError or OSError, and has then undone what it did, or left it on record for the
reaper.
"""

from __future__ import annotations

from typing import Protocol

from podwire.agent.attachments import BRIDGE, CHAINED, IPAM, ROUTED, Attachment
from podwire.cni import spec
from podwire.cni.spec import CniError, Request, Result

PODWIRE = "podwire"
WIRINGS = {ROUTED: ROUTED, BRIDGE: BRIDGE}


class Role(Protocol):
    """`inner` is a descriptor of the pod's network namespace, open during the call; the caller closes it."""

    def add(self, request: Request, inner: int) -> Result:
        """Again for the same attachment: the same result."""

    def delete(self, request: Request, inner: int | None) -> None:
        """Succeeds when nothing (more) is there; `inner` is None when the namespace is gone. Also called by GC, for
        each attachment on record that is not valid, with CNI_ARGS and container of the record."""

    def check(self, request: Request, inner: int) -> None:
        """Raises CniError naming every difference."""

    def collect(self, request: Request) -> None:
        """GC, after every attachment on record that is not in `request.valid` has been deleted: remove what is left
        without a record, in this request's network. Faults are gathered and raised as one."""

    def status(self, request: Request) -> None:
        """Raises CniError 50 or 51 when an ADD could not be served now."""


def layer_of(request: Request) -> str:
    """The records that the request is about."""
    return "" if request.role == PODWIRE else "ipam" if request.role == IPAM else request.role


def pick(request: Request, record: Attachment | None) -> str:
    """The role's name. What an attachment was made by also checks and ends it. Raises CniError 7."""
    if request.role != PODWIRE:
        return request.role
    if record is not None and request.command in ("CHECK", "DEL"):
        return record.role
    wiring = request.config.get("wiring") or ROUTED
    if wiring not in WIRINGS:
        raise CniError(spec.BAD_CONFIG, f"wiring is none of {', '.join(WIRINGS)}", str(wiring)[:64])
    # CHECK, DEL carry the whole chain's result, whatever our place in it: only ADD tells
    if request.command == "ADD" and request.previous is not None:
        return CHAINED
    return WIRINGS[wiring]

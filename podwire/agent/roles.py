"""What a role must be able to do: the name by which the shim was called, or the wiring that the configuration asks for.

A role gets a parsed request; the attacher has made sure that no other call for the same attachment runs meanwhile.
Each method raises CniError, KernelError or OSError, and has then undone what it did, or left it on record for the
reaper.
"""

from __future__ import annotations

from typing import Protocol

from podwire.cni.spec import Request, Result


class Role(Protocol):
    """`inner` is a descriptor of the pod's network namespace, open during the call; the caller closes it."""

    def add(self, request: Request, inner: int) -> Result:
        """Again for the same attachment: the same result."""

    def delete(self, request: Request, inner: int | None) -> None:
        """Succeeds when nothing (more) is there; `inner` is None when the namespace is gone."""

    def check(self, request: Request, inner: int) -> None:
        """Raises CniError naming every difference."""

    def collect(self, request: Request) -> None:
        """GC: remove what no attachment of `request.valid` owns, in this request's network; never called without a
        list. Faults are gathered and raised as one."""

    def status(self, request: Request) -> None:
        """Raises CniError 50 or 51 when an ADD could not be served now."""

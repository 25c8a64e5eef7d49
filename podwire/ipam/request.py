"""One thing that an allocator is asked for, and how it is answered."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Iterable
from dataclasses import dataclass, field
from typing import Any, ParamSpec, TypeVar

from podwire.ipam.blocks import Attribute
from podwire.ipam.ledger import Spot
from podwire.ipam.room import IpamError
from podwire.ipam.stored import Lost
from podwire.ipam.wish import Wish
from podwire.model.address import Cidr
from podwire.model.api import ApiError

T = TypeVar("T")
P = ParamSpec("P")


@dataclass(eq=False, slots=True)
class Request:
    """`wish` None is a release, then with `error` what to answer once it is done. No handle: wait for what is due."""

    handle: str
    wish: Wish | None
    attribute: Attribute | None
    future: asyncio.Future[list[str]]
    error: Exception | None = None
    placed: dict[int, Spot] = field(default_factory=dict)  # family → address taken in this round
    won: bool = False  # something of it is stored already
    lend: bool = False  # may have an address that is claimed ahead just now
    ahead: bool = False  # what was placed in this round is claimed ahead
    bare: bool = False  # a release of what was lent, whose handle was never written
    exact: dict[int, Spot] = field(default_factory=dict)
    raised: set[Cidr] = field(default_factory=set)  # blocks that its handle was made to name
    checked: set[Cidr] = field(default_factory=set)  # named by the stored handle, and it holds nothing there
    freed: list[str] = field(default_factory=list)
    cidrs: set[Cidr] = field(default_factory=set)


def answer(request: Request, addresses: list[str]) -> None:
    if not request.future.done():
        request.future.set_result(addresses)


def fail(requests: Iterable[Request], error: Exception) -> None:
    for request in requests:
        if not request.future.done():
            request.future.set_exception(error)


async def attempt(call: Callable[P, Awaitable[T]], *args: P.args, **kwargs: P.kwargs) -> T | Exception:
    """The outcome of a call as a value. The call is made here, so that none is left over where this never begins."""
    try:
        return await call(*args, **kwargs)
    except (ApiError, Lost, IpamError) as error:
        return error


async def run_all(calls: Iterable[Coroutine[Any, Any, None]]) -> None:
    """Run together, wait for every one also if some fail, then raise the first failure."""
    for outcome in await asyncio.gather(*calls, return_exceptions=True):
        if isinstance(outcome, BaseException):
            raise outcome

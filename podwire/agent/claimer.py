"""Addresses for the threads that serve CNI calls: the allocator lives on the agent's event loop, they do not."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import threading
from collections.abc import Coroutine, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

from podwire.agent.between import Between
from podwire.agent.turns import Turns
from podwire.cni import spec
from podwire.cni.spec import CniError
from podwire.ipam.wish import Wish
from podwire.model.api import ApiError

CLAIM_SECONDS = 30.0
RELEASE_SECONDS = 30.0

T = TypeVar("T")


class Claims(Protocol):
    """Addresses, as the allocator gives them."""

    async def assign(self, wish: Wish) -> list[str]: ...
    def at_once(self, wish: Wish) -> list[str] | None:
        """Like `assign`, where that needs no waiting; else None."""

    async def release(self, handle: str) -> list[str]: ...


@dataclass(frozen=True, slots=True)
class Pending:
    """A claim on its way."""

    future: concurrent.futures.Future[tuple[str, ...]]
    turns: Turns

    def addresses(self) -> tuple[str, ...]:
        """Raises CniError: 11 while the API does not answer or no address is free."""
        try:
            if self.future.done():
                return self.future.result()
            with self.turns.waiting():
                return self.future.result(CLAIM_SECONDS)
        except concurrent.futures.CancelledError:
            raise _called_off() from None
        except TimeoutError:
            self.future.cancel()
            raise CniError(spec.TRY_AGAIN, "no address claimed in time", f"waited {CLAIM_SECONDS:.0f} s") from None
        except CniError:
            raise
        except ApiError as error:
            details = f"no address that was claimed ahead is left, and the API does not take a claim: {error}"
            raise CniError(spec.TRY_AGAIN, "cannot claim an address", details) from error
        except Exception as error:
            raise CniError(spec.TRY_AGAIN, "cannot claim an address", str(error)) from error


def _called_off() -> CniError:
    return CniError(spec.TRY_AGAIN, "a DEL of the same attachment came meanwhile", "or the agent is stopping")


class Ticket:
    """One ADD from its arrival on. A DEL that overtakes it, or comes while it runs, cancels it; so does the end of the
    agent."""

    def __init__(self) -> None:
        self._guard = threading.Lock()
        self._pending: list[Pending] = []
        self._cancelled = False

    def cancel(self) -> None:
        """Whoever waits for a claim of this ADD goes on with an error; what was claimed is released with the handle."""
        with self._guard:
            self._cancelled = True
            for pending in self._pending:
                pending.future.cancel()

    def check(self) -> None:
        """Raises CniError 11 once cancelled."""
        if self._cancelled:
            raise _called_off()

    def hold(self, pending: Pending) -> None:
        """To be cancelled with the ADD."""
        with self._guard:
            self._pending.append(pending)
            if self._cancelled:
                pending.future.cancel()


class Claimer:
    """The door to the allocator; shut until `open`."""

    def __init__(self, turns: Turns) -> None:
        self.turns = turns
        self._claims: Claims | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._between: Between | None = None
        self._serving = threading.local()

    @contextmanager
    def serving(self, ticket: Ticket) -> Iterator[None]:
        """The calling thread's claims belong to this ADD."""
        self._serving.ticket = ticket
        try:
            yield
        finally:
            self._serving.ticket = None

    def open(self, claims: Claims, loop: asyncio.AbstractEventLoop, between: Between | None = None) -> None:
        """From now on addresses can be had; `claims` is used on `loop` only, or `between` its callbacks."""
        self._claims, self._loop, self._between = claims, loop, between

    @property
    def ready(self) -> bool:
        return self._claims is not None

    def require(self) -> Claims:
        """Raises CniError 11 while the door is shut."""
        if self._claims is None:
            raise CniError(spec.TRY_AGAIN, "the agent is not ready", "it has not yet learned what the cluster holds")
        return self._claims

    def claim(self, wish: Wish) -> Pending:
        """Raises CniError 11 while the door is shut."""
        assert self._loop is not None
        pending, claims = Pending(concurrent.futures.Future(), self.turns), self.require()
        if self._at_once(claims, wish, pending.future):
            return pending
        self._loop.call_soon_threadsafe(self._assign, claims, wish, pending.future)
        ticket: Ticket | None = getattr(self._serving, "ticket", None)
        if ticket is not None:
            ticket.hold(pending)
        return pending

    def _at_once(self, claims: Claims, wish: Wish, future: concurrent.futures.Future[tuple[str, ...]]) -> bool:
        """In the caller's thread: mostly the addresses are there."""
        between = self._between
        if between is None or not between.enter():
            return False
        try:
            found = claims.at_once(wish)
        except Exception as error:  # noqa: BLE001 - whoever waits gets it
            _settle(future, error)
            return True
        finally:
            between.leave()
        if found is None:
            return False
        _settle(future, tuple(found))
        return True

    def _assign(self, claims: Claims, wish: Wish, future: concurrent.futures.Future[tuple[str, ...]]) -> None:
        """On the loop. The addresses may be there, and then a task would cost more than all the rest."""
        if future.cancelled():
            return
        try:
            found = claims.at_once(wish)
        except Exception as error:  # noqa: BLE001 - whoever waits gets it
            _settle(future, error)
            return
        if found is not None:
            _settle(future, tuple(found))
            return
        loop = asyncio.get_running_loop()
        task = loop.create_task(claims.assign(wish))

        def ended(task: asyncio.Task[list[str]]) -> None:
            if task.cancelled():
                future.cancel()
            else:
                _settle(future, task.exception() or tuple(task.result()))

        def given_up(future: concurrent.futures.Future[tuple[str, ...]]) -> None:
            if future.cancelled():
                with contextlib.suppress(RuntimeError):  # the loop has ended
                    loop.call_soon_threadsafe(task.cancel)

        task.add_done_callback(ended)
        future.add_done_callback(given_up)

    def release(self, handles: Sequence[str]) -> list[Exception | None]:
        """Give back what the handles hold, together: they share the allocator's next write. Of each what went wrong:
        ApiError, IpamError. Raises TimeoutError, CniError."""
        return self._submit(self._release(self.require(), handles)).result(RELEASE_SECONDS)

    async def _release(self, claims: Claims, handles: Sequence[str]) -> list[Exception | None]:
        outcomes = await asyncio.gather(*(claims.release(handle) for handle in handles), return_exceptions=True)
        found: list[Exception | None] = []
        for outcome in outcomes:
            if isinstance(outcome, BaseException) and not isinstance(outcome, Exception):
                raise outcome
            found.append(outcome if isinstance(outcome, Exception) else None)
        return found

    def _submit(self, call: Coroutine[Any, Any, T]) -> concurrent.futures.Future[T]:
        assert self._loop is not None
        return asyncio.run_coroutine_threadsafe(call, self._loop)


def _settle(future: concurrent.futures.Future[tuple[str, ...]], outcome: tuple[str, ...] | BaseException) -> None:
    """Tell whoever waits, unless nobody does any more."""
    if not future.set_running_or_notify_cancel():
        return
    if isinstance(outcome, BaseException):
        future.set_exception(outcome)
    else:
        future.set_result(outcome)

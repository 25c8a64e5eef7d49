"""The CNI verbs as this node does them: ADD, DEL, CHECK.

ADD: the record is written first, then the address is claimed through the API while the veth pair is made; the reply
goes out when the pod is addressed, routed and admitted. Whatever fails is undone. DEL answers when the pod is out of
use and that is on record; links and address are given back by the reaper. The same call may come again at any time.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import errno
import logging
import os
import threading
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, Protocol

import msgspec

from podwire.agent import wiring as wire
from podwire.agent.admission import Admission
from podwire.agent.attachments import DELETED, READY, WIRING, Attachment, Attachments, Key
from podwire.agent.reaper import Reaper
from podwire.agent.wiring import Sockets
from podwire.cni import plan, spec
from podwire.cni.plan import Wiring
from podwire.cni.spec import CniError, Request
from podwire.ipam.wish import Wish
from podwire.kernel import netns
from podwire.kernel.netlink import KernelError

log = logging.getLogger(__name__)

CLAIM_SECONDS = 30.0


class Claims(Protocol):
    """Addresses, as the allocator gives them."""

    async def assign(self, wish: Wish) -> list[str]: ...
    async def release(self, handle: str) -> list[str]: ...


@dataclass(frozen=True, slots=True)
class Pending:
    """A claim on its way."""

    future: concurrent.futures.Future[list[str]]

    def address(self) -> str:
        """Raises CniError: 11 while the API does not answer or no address is free."""
        try:
            return self.future.result(CLAIM_SECONDS)[0]
        except (TimeoutError, concurrent.futures.CancelledError):
            self.future.cancel()
            raise CniError(spec.TRY_AGAIN, "no address claimed in time", f"waited {CLAIM_SECONDS:.0f} s") from None
        except Exception as error:
            raise CniError(spec.TRY_AGAIN, "cannot claim an address", str(error)) from error


class Attacher:
    """Serves calls from several threads; one call at a time for each attachment and for each host interface."""

    def __init__(
        self,
        node: str,
        mtu: int,
        records: Attachments,
        sockets: Sockets,
        admission: Admission,
        reaper: Reaper,
        entropy: Callable[[int], bytes] = os.urandom,
    ) -> None:
        self._node = node
        self._mtu = mtu
        self._records = records
        self._sockets = sockets
        self._admission = admission
        self._reaper = reaper
        self._entropy = entropy
        self._locks: dict[str, tuple[threading.Lock, int]] = {}
        self._guard = threading.Lock()
        self._claims: Claims | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self.boot = ""

    def open(self, claims: Claims, loop: asyncio.AbstractEventLoop) -> None:
        """From now on ADD is served; `claims` is used on `loop` only."""
        self._claims, self._loop = claims, loop

    def serve(self, env: dict[str, str], stdin: bytes, netns_fd: int | None) -> tuple[int, bytes]:
        """Exit code and stdout of one call; never raises."""
        try:
            request = spec.parse(env, stdin)
            return 0, self._dispatch(request, netns_fd)
        except CniError as error:
            log.info("cni refused command=%s code=%d error=%s", env.get("CNI_COMMAND"), error.code, error)
            return 1, error.encode(spec.stated_version(stdin))
        except KernelError as error:
            log.warning("cni failed command=%s error=%s", env.get("CNI_COMMAND"), error)
            return 1, CniError(spec.INTERNAL, "the kernel refused", str(error)).encode(spec.stated_version(stdin))
        except OSError as error:
            log.warning("cni failed command=%s error=%s", env.get("CNI_COMMAND"), error)
            return 1, CniError(spec.IO_FAILURE, "input or output failed", str(error)).encode(spec.stated_version(stdin))
        except Exception as error:
            log.exception("cni failed command=%s", env.get("CNI_COMMAND"))
            return 1, CniError(spec.INTERNAL, "internal error", repr(error)).encode(spec.stated_version(stdin))

    def _dispatch(self, request: Request, netns_fd: int | None) -> bytes:
        key = (request.container_id, request.interface)
        with self._alone(f"{key[0]}/{key[1]}"), self._alone(plan.host_name(request)):
            if request.command == "DEL":
                self._delete(request, key, netns_fd)
                return b""
            inner = _pod_namespace(request, netns_fd)
            try:
                if request.command == "CHECK":
                    self._check(request, key, inner)
                    return b""
                return self._add(request, key, inner)
            finally:
                if inner != netns_fd:
                    os.close(inner)

    @contextmanager
    def _alone(self, name: str) -> Iterator[None]:
        with self._guard:
            lock, users = self._locks.get(name, (threading.Lock(), 0))
            self._locks[name] = (lock, users + 1)
        try:
            with lock:
                yield
        finally:
            with self._guard:
                lock, users = self._locks.pop(name)
                if users > 1:
                    self._locks[name] = (lock, users - 1)

    # -- ADD ------------------------------------------------------------------------------------------------------

    def _add(self, request: Request, key: Key, inner: int) -> bytes:
        known = self._records.get(key)
        if known is not None and known.state == READY:
            if not self._faults(_wiring(known), inner):
                return spec.encode(plan.result(_wiring(known), request.netns), request.version)
            raise CniError(spec.INTERNAL, "attachment exists but is damaged", "DEL it first")
        if known is not None:
            self._reaper.finish(key)
        planned = plan.routed(request, self._mtu, self._entropy(6))
        self._evict(planned.host_name)
        record = self._begin(request, planned)
        pending = self._claim(record)
        try:
            index = self._create(planned, inner)
            complete = replace(planned, address=pending.address())
            wire.address_pod(complete, inner)
            wire.address_host(self._sockets.route(), complete, index)
            self._admission.admit((complete.host_name, complete.address))
            wire.await_carrier(self._sockets.route(), complete.host_name)
            self._records.put(msgspec.structs.replace(record, address=complete.address, state=READY))
        except BaseException:
            self._undo(record, pending)
            raise
        log.info("attached pod=%s/%s address=%s", request.namespace, request.pod, complete.address)
        return spec.encode(plan.result(complete, request.netns), request.version)

    def _begin(self, request: Request, planned: Wiring) -> Attachment:
        suffix = "" if request.interface == "eth0" else f".{request.interface}"
        record = Attachment(
            container_id=request.container_id,
            interface=request.interface,
            network=request.network,
            netns=request.netns,
            host_name=planned.host_name,
            pod_mac=planned.pod_mac,
            mtu=planned.mtu,
            handle=f"{request.network}.{request.container_id}{suffix}",
            namespace=request.namespace,
            pod=request.pod,
            uid=request.uid,
            boot=self.boot,
        )
        if self._claims is None:
            raise CniError(spec.TRY_AGAIN, "the agent is not ready", "it has not yet learned what the cluster holds")
        self._records.put(record)
        return record

    def _claim(self, record: Attachment) -> Pending:
        assert self._claims is not None
        attributes = {"node": self._node, "namespace": record.namespace, "pod": record.pod}
        wish = Wish(record.handle, {name: value for name, value in attributes.items() if value})
        return Pending(self._submit(self._claims.assign(wish)))

    def _submit(self, call: Coroutine[Any, Any, list[str]]) -> concurrent.futures.Future[list[str]]:
        assert self._loop is not None
        return asyncio.run_coroutine_threadsafe(call, self._loop)

    def _evict(self, name: str) -> None:
        """A retry of the same pod by another sandbox: the former one loses the name, and its address with its DEL."""
        owner = self._records.owner(name)
        if owner is not None:
            log.warning("host interface taken over name=%s from=%s", name, owner.container_id)
            if owner.address:
                self._admission.expel((owner.host_name, owner.address))
            self._records.put(msgspec.structs.replace(owner, state=DELETED))
            self._reaper.add(owner.key)
        if wire.doom_host(self._sockets.route(), name, owner.address if owner else ""):
            self._reaper.wake()

    def _create(self, planned: Wiring, inner: int) -> int:
        try:
            return wire.create(self._sockets.route(), planned, inner)
        except KernelError as error:
            if error.errno == errno.EEXIST:
                raise CniError(spec.INTERNAL, f"interface {planned.pod_name} already exists in the pod") from error
            raise

    def _undo(self, record: Attachment, pending: Pending) -> None:
        """Everything back; the claim is let finish, so that its release comes after it."""
        try:
            pending.future.exception(CLAIM_SECONDS)
        except (TimeoutError, concurrent.futures.CancelledError):
            pass
        address = pending.future.result()[0] if _succeeded(pending.future) else ""
        try:
            wire.doom_host(self._sockets.route(), record.host_name, address)
            if address:
                self._admission.expel((record.host_name, address))
            self._records.put(msgspec.structs.replace(record, state=DELETED))
        except (KernelError, OSError) as error:
            # the record still says "wiring": the next start takes it from there
            log.error("undo failed interface=%s error=%s", record.host_name, error)
            return
        self._reaper.add(record.key)

    # -- DEL ------------------------------------------------------------------------------------------------------

    def _delete(self, request: Request, key: Key, netns_fd: int | None) -> None:
        record = self._records.get(key)
        name = plan.host_name(request)
        if record is None:
            # our state is gone, or ADD never came: give back what the names lead to, unless it is someone else's
            record = self._orphan(request, name)
        owner = self._records.owner(record.host_name)
        if owner is None or owner.key == key:
            if record.address:
                self._admission.expel((record.host_name, record.address))
            wire.doom_host(self._sockets.route(), record.host_name, record.address)
        self._records.put(msgspec.structs.replace(record, state=DELETED))
        self._blank(request, netns_fd)
        self._reaper.add(key)
        log.info("detached pod=%s/%s address=%s", record.namespace, record.pod, record.address)

    def _orphan(self, request: Request, name: str) -> Attachment:
        suffix = "" if request.interface == "eth0" else f".{request.interface}"
        handle = f"{request.network}.{request.container_id}{suffix}"
        return Attachment(
            request.container_id, request.interface, request.network, request.netns, name, "", 0, handle, state=WIRING
        )

    def _blank(self, request: Request, netns_fd: int | None) -> None:
        """Inside the pod the interface is gone at once. A namespace that vanished needs nothing."""
        try:
            inner = _pod_namespace(request, netns_fd)
        except CniError:
            return
        try:
            wire.doom_pod(request.interface, inner)
        except KernelError as error:
            log.info("pod side not reachable netns=%s error=%s", request.netns, error)
        finally:
            if inner != netns_fd:
                os.close(inner)

    # -- CHECK ----------------------------------------------------------------------------------------------------

    def _check(self, request: Request, key: Key, inner: int) -> None:
        if request.previous is None:
            raise CniError(spec.BAD_CONFIG, "CHECK needs prevResult")
        record = self._records.get(key)
        if record is None or record.state != READY:
            raise CniError(spec.UNKNOWN_CONTAINER, "no such attachment", f"{key[0]} {key[1]}")
        faults = self._faults(_wiring(record), inner)
        told = [address.address.partition("/")[0] for address in request.previous.ips]
        if record.address not in told:
            faults.append(f"prevResult has {', '.join(told) or 'no address'}, the attachment {record.address}")
        if faults:
            raise CniError(spec.DRIFT, "the attachment is damaged", "; ".join(faults))

    def _faults(self, wiring: Wiring, inner: int) -> list[str]:
        faults = wire.host_faults(self._sockets.route(), wiring) + wire.pod_faults(wiring, inner)
        if (wiring.host_name, wiring.address) not in self._admission.members():
            faults.append(f"{wiring.host_name} with {wiring.address} is not admitted")
        return faults


def _succeeded(future: concurrent.futures.Future[list[str]]) -> bool:
    return future.done() and not future.cancelled() and future.exception() is None


def _wiring(record: Attachment) -> Wiring:
    return Wiring(record.host_name, record.interface, record.pod_mac, record.mtu, record.address)


def _pod_namespace(request: Request, netns_fd: int | None) -> int:
    """The descriptor that came along, else one opened by path. Raises CniError 4 or 8."""
    fd = netns_fd
    if fd is None:
        if not request.netns:
            raise CniError(spec.BAD_ENVIRONMENT, "CNI_NETNS is empty")
        try:
            fd = netns.open_path(request.netns)
        except KernelError as error:
            raise CniError(spec.BAD_ENVIRONMENT, "cannot open CNI_NETNS", str(error)) from error
    own = netns.open_own()
    try:
        same = netns.identity(own) == netns.identity(fd)
    finally:
        os.close(own)
    if same:
        if fd != netns_fd:
            os.close(fd)
        raise CniError(spec.BAD_NETNS, "CNI_NETNS is the node's own network namespace", request.netns)
    return fd

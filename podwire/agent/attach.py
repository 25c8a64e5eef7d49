"""The agent's end of a CNI call: request parsed, attachment locked, namespace opened, role picked, errors encoded.

One call at a time for each attachment and for each host interface. A DEL ends a running ADD of its attachment early;
an ADD that is overtaken by the DEL that belongs to it is refused. What a verb does is the role's (`roles.Role`).
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace

from podwire.agent import roles
from podwire.agent.attachments import CHAINED, DELETED, READY, Attachment, Attachments
from podwire.agent.claimer import Claimer, Ticket
from podwire.agent.roles import Role
from podwire.agent.wiring import Sockets
from podwire.cni import plan, spec
from podwire.cni.spec import CniError, Request
from podwire.kernel import netns
from podwire.kernel.netlink import KernelError

log = logging.getLogger(__name__)


def is_brief(env: Mapping[str, str]) -> bool:
    """Whether a call does nothing that takes long without stepping aside (`turns.Turns.waiting`): what pods are wired
    by, and not what looks at the whole node."""
    return env.get("CNI_COMMAND") in ("ADD", "DEL", "CHECK") and env.get("PODWIRE_ROLE", roles.PODWIRE) == roles.PODWIRE


Whose = tuple[str, str, str]  # role, container ID, interface


class Attacher:
    """Serves calls from several threads. `table` has the roles by the names that `roles.pick` gives."""

    def __init__(self, records: Attachments, table: Mapping[str, Role], claimer: Claimer, sockets: Sockets) -> None:
        self._records = records
        self._sockets = sockets
        self._table = table
        self._claimer = claimer
        self._tickets: dict[int, tuple[Whose, Ticket]] = {}  # by the identity of the call's environment
        self._locks: dict[str, tuple[threading.Lock, int]] = {}
        self._ending = False
        self._guard = threading.Lock()

    def arrive(self, env: dict[str, str]) -> None:
        """A whole call is there, and `serve` will be called with the same `env`: threads may take calls up in another
        order than they came in, and a DEL must not wait for the addresses of an ADD that nobody wants any more."""
        command = env.get("CNI_COMMAND")
        whose = env.get("PODWIRE_ROLE", ""), env.get("CNI_CONTAINERID", ""), env.get("CNI_IFNAME", "")
        with self._guard:
            if command == "ADD":
                self._tickets[id(env)] = whose, (ticket := Ticket())
                if self._ending:
                    ticket.cancel()
            elif command == "DEL":
                for other, ticket in self._tickets.values():
                    if other == whose:
                        ticket.cancel()

    def end(self) -> None:
        """The agent stops: ADDs that wait for addresses are answered (11), as are those that still come, so that an API
        that does not answer holds up nobody's end."""
        with self._guard:
            self._ending = True
            for _, ticket in self._tickets.values():
                ticket.cancel()

    def serve(self, env: dict[str, str], stdin: bytes, netns_fd: int | None) -> tuple[int, bytes]:
        """Exit code and stdout of one call; never raises."""
        try:
            return self._serve(env, stdin, netns_fd)
        finally:
            with self._guard:
                self._tickets.pop(id(env), None)

    def _serve(self, env: dict[str, str], stdin: bytes, netns_fd: int | None) -> tuple[int, bytes]:
        try:
            request = spec.parse(env, stdin)
            _, ticket = self._tickets.get(id(env), ("", Ticket()))
            with self._claimer.serving(ticket):
                return 0, self._dispatch(request, netns_fd, ticket)
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

    def _dispatch(self, request: Request, netns_fd: int | None, ticket: Ticket) -> bytes:
        if request.command == "STATUS":
            self._role(request, None).status(request)
            return b""
        if request.command == "GC":
            self._collect(request)
            return b""
        if request.command == "VERSION":
            raise CniError(spec.BAD_ENVIRONMENT, "VERSION is answered by the plugin's executable")
        with self._alone(request), self._claimer.turns.taken():
            record = self._record(request)
            role = self._role(request, record)
            if request.command == "DEL":
                self._delete(role, request, netns_fd)
                return b""
            with self._pod_namespace(request, netns_fd) as inner:
                if request.command == "CHECK":
                    role.check(request, inner)
                    return b""
                ticket.check()
                return spec.encode(role.add(request, inner), request.version)

    def _role(self, request: Request, record: Attachment | None) -> Role:
        name = roles.pick(request, record)
        if name not in self._table:
            known = ", ".join(sorted(self._table))
            raise CniError(spec.BAD_CONFIG, f"no plugin of type {name!r} in this agent", f"it has {known}")
        return self._table[name]

    def _record(self, request: Request) -> Attachment | None:
        return self._records.get((request.container_id, request.interface, roles.layer_of(request)))

    @contextmanager
    def _alone(self, request: Request) -> Iterator[None]:
        """No other call for the attachment, nor for the pod's host interface, runs meanwhile."""
        record = self._record(request)
        host = record.host_name if record is not None and record.host_name else plan.host_name(request)
        with self._lock(f"{request.container_id}/{request.interface}"), self._lock(host):
            yield

    @contextmanager
    def _lock(self, name: str) -> Iterator[None]:
        with self._guard:
            lock, users = self._locks.get(name, (threading.Lock(), 0))
            self._locks[name] = (lock, users + 1)
        try:
            if not lock.acquire(blocking=False):
                with self._claimer.turns.waiting():
                    lock.acquire()
            try:
                yield
            finally:
                lock.release()
        finally:
            with self._guard:
                lock, users = self._locks.pop(name)
                if users > 1:
                    self._locks[name] = (lock, users - 1)

    def _delete(self, role: Role, request: Request, netns_fd: int | None) -> None:
        """The namespace may be gone, and then only the node's side is left to do."""
        try:
            opened = self._pod_namespace(request, netns_fd)
            inner = opened.__enter__()
        except CniError:
            role.delete(request, None)
            return
        try:
            role.delete(request, inner)
        finally:
            opened.__exit__(None, None, None)

    @contextmanager
    def _pod_namespace(self, request: Request, netns_fd: int | None) -> Iterator[int]:
        """The descriptor that came along, else one opened by path. Raises CniError 4 or 8."""
        fd = netns_fd
        if fd is None:
            if not request.netns:
                raise CniError(spec.BAD_ENVIRONMENT, "CNI_NETNS is empty")
            try:
                fd = netns.open_path(request.netns)
            except KernelError as error:
                raise CniError(spec.BAD_ENVIRONMENT, "cannot open CNI_NETNS", str(error)) from error
        try:
            if not netns.is_network(fd):
                raise CniError(spec.BAD_ENVIRONMENT, "CNI_NETNS is no network namespace", request.netns)
            if netns.identity(fd) == netns.identity(self._sockets.home()):
                raise CniError(spec.BAD_NETNS, "CNI_NETNS is the node's own network namespace", request.netns)
            yield fd
        finally:
            if fd != netns_fd:
                os.close(fd)

    # -- GC -----------------------------------------------------------------------------------------------------------

    def _collect(self, request: Request) -> None:
        """Raises CniError with every fault."""
        if request.valid is None:
            return  # no list is not an empty list
        layer = roles.layer_of(request)
        faults: list[str] = []
        # an ADD that runs now, or comes while this does, is not what the caller's list speaks of
        for record in self._records.all(READY, DELETED):
            stale = record.key[2] == layer and (record.container_id, record.interface) not in request.valid
            if stale and record.network == request.network and record.state == READY:
                try:
                    self._drop(request, record)
                except (CniError, KernelError, OSError) as error:
                    faults.append(f"{record.container_id} {record.interface}: {error}")
        for role in self._collecting(request):
            try:
                role.collect(request)
            except CniError as error:
                faults.append(f"{error.msg}: {error.details}" if error.details else error.msg)
            except (KernelError, OSError) as error:
                faults.append(str(error))
        if faults:
            raise CniError(spec.INTERNAL, "not everything could be collected", "; ".join(faults))

    def _collecting(self, request: Request) -> list[Role]:
        """GC has no prevResult: whether Podwire wires in this network or stands behind who does is not said."""
        found = [self._role(request, None)]
        if request.role == roles.PODWIRE and CHAINED in self._table:
            found.append(self._table[CHAINED])
        return found

    def _drop(self, request: Request, record: Attachment) -> None:
        """DEL one attachment, unless it changed since it was found stale."""
        args = {"K8S_POD_NAMESPACE": record.namespace, "K8S_POD_NAME": record.pod, "K8S_POD_UID": record.uid}
        call = replace(
            request,
            command="DEL",
            container_id=record.container_id,
            interface=record.interface,
            netns=record.netns,
            args={name: value for name, value in args.items() if value},
        )
        with self._alone(call):
            if self._records.get(record.key) == record and record.role in self._table:
                log.info("stale attachment collected container=%s interface=%s", record.container_id, record.interface)
                self._delete(self._table[record.role], call, None)

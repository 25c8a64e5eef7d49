"""The API over HTTP: aiohttp for transport, msgspec for bodies.

Nothing is opened at construction: the session is made in the running loop by the first call, so a Client may be made
before a fork and used after it. Watches may ask for slim records (`decode=`): a msgspec Struct with the fields that
are used, whose `metadata` has name, namespace and resourceVersion (`model.meta.Meta`).
"""

from __future__ import annotations

import asyncio
import logging
import random
import socket
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from podwire.kube.kubeconfig import Cluster
from podwire.kube.rotation import Identity
from podwire.kube.watch import Change, Gone, Interrupted, Pause, Record, Unstreamed, reflect
from podwire.model.api import Api, ApiError, InSync, Object, Update
from podwire.model.gvr import GVR

if TYPE_CHECKING:
    import aiohttp

__all__ = ["Api", "ApiError", "Client", "InSync", "Update"]

log = logging.getLogger(__name__)

CALL_SECONDS = 30.0
IDLE_SECONDS = 90.0  # API servers send a bookmark about every minute: longer silence means a dead connection
PAGE = 500
_INITIAL_END = "k8s.io/initial-events-end"
_KEEPALIVE = (
    # A peer that vanished without a word (power, cable) is noticed within 35 s, whether we wait or speak.
    (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
    (socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 15),
    (socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 5),
    (socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 4),
    (socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, 35_000),
)
_PATCH_TYPES = {
    "merge": "application/merge-patch+json",
    "json": "application/json-patch+json",
    "strategic": "application/strategic-merge-patch+json",
    "apply": "application/apply-patch+yaml",  # JSON is YAML
}


class _ListMeta(msgspec.Struct):
    resourceVersion: str = ""
    continue_: str = msgspec.field(default="", name="continue")


class _List(msgspec.Struct):
    metadata: _ListMeta
    items: list[msgspec.Raw] | None = None


class _Event(msgspec.Struct):
    type: str
    object: msgspec.Raw


class _Meta(msgspec.Struct):
    name: str = ""
    namespace: str = ""
    resourceVersion: str = ""
    annotations: dict[str, str] = {}


class _Bare(msgspec.Struct):
    """Enough of any object to key it."""

    metadata: _Meta


class _Status(msgspec.Struct):
    code: int = 0
    reason: str = ""
    message: str = ""
    details: Object | None = None


_Items = list[msgspec.Raw]  # named here, as `list` is a verb inside Client
_lists = msgspec.json.Decoder(_List)
_events = msgspec.json.Decoder(_Event)
_bare = msgspec.json.Decoder(_Bare)
_objects = msgspec.json.Decoder(dict[str, Any])


class Client:
    """Implements Api. One per process is enough; calls may run concurrently. `again` reads `cluster` anew: then new
    connections follow its files (see `rotation`)."""

    def __init__(
        self,
        cluster: Cluster,
        *,
        user_agent: str = "podwire",
        pause: Pause | None = None,
        idle: float = IDLE_SECONDS,
        again: Callable[[], Cluster] | None = None,
    ) -> None:
        self._identity = Identity(cluster, again)
        self._agent = user_agent
        self._idle = idle
        self._pause = pause or Pause()
        self._session: aiohttp.ClientSession | None = None
        self._loop: asyncio.AbstractEventLoop | None = None

    @property
    def _cluster(self) -> Cluster:
        return self._identity.cluster

    async def get(self, gvr: GVR, name: str, namespace: str = "", subresource: str = "") -> Object:
        return await self._call("GET", gvr.path(namespace, name, subresource))

    async def list(
        self, gvr: GVR, namespace: str = "", *, label_selector: str = "", field_selector: str = ""
    ) -> tuple[list[Object], str]:
        raw, version = await self._pages(gvr.path(namespace), _selectors(label_selector, field_selector))
        items = []
        for body in raw:
            item = _objects.decode(body)
            item.setdefault("apiVersion", gvr.api_version)
            item.setdefault("kind", gvr.kind)
            items.append(item)
        return items, version

    async def create(
        self, gvr: GVR, obj: Object, namespace: str = "", *, subresource: str = "", name: str = ""
    ) -> Object:
        metadata = obj.get("metadata") or {}
        where = namespace or metadata.get("namespace", "")
        target = (name or metadata.get("name", "")) if subresource else ""
        return await self._call("POST", gvr.path(where, target, subresource), body=obj)

    async def update(self, gvr: GVR, obj: Object, *, subresource: str = "") -> Object:
        metadata = obj["metadata"]
        path = gvr.path(metadata.get("namespace", ""), metadata["name"], subresource)
        return await self._call("PUT", path, body=obj)

    async def patch(
        self,
        gvr: GVR,
        name: str,
        patch: Any,
        namespace: str = "",
        *,
        kind: str = "merge",
        subresource: str = "",
        manager: str = "",
        force: bool = False,
    ) -> Object:
        query = {}
        if manager:
            query["fieldManager"] = manager
        if force:
            query["force"] = "true"
        path = gvr.path(namespace, name, subresource)
        return await self._call("PATCH", path, query=query, body=patch, content_type=_PATCH_TYPES[kind])

    async def delete(
        self,
        gvr: GVR,
        name: str,
        namespace: str = "",
        *,
        uid: str = "",
        resource_version: str = "",
        grace: int | None = None,
        propagation: str = "",
    ) -> None:
        options: Object = {"apiVersion": "v1", "kind": "DeleteOptions"}
        conditions = {"uid": uid, "resourceVersion": resource_version}
        if any(conditions.values()):
            options["preconditions"] = {key: value for key, value in conditions.items() if value}
        if grace is not None:
            options["gracePeriodSeconds"] = grace
        if propagation:
            options["propagationPolicy"] = propagation
        await self._call("DELETE", gvr.path(namespace, name), body=options)

    def watch(
        self,
        gvr: GVR,
        namespace: str = "",
        *,
        label_selector: str = "",
        field_selector: str = "",
        decode: type[Any] | None = None,
    ) -> AsyncIterator[Update | InSync]:
        source = _HttpSource(self, gvr, gvr.path(namespace), _selectors(label_selector, field_selector), decode)
        return reflect(source, f"{gvr.plural} of {self._cluster.server}", self._pause)

    async def close(self) -> None:
        session, self._session = self._session, None
        if session is not None:
            await session.close()

    async def raw(self, method: str, path: str, body: Any = None) -> Object:
        """A call by path, for what has no GVR (`/version`, `/readyz` answers that are JSON). Raises ApiError."""
        return await self._call(method, path, body=body)

    async def messages(self, path: str, protocols: tuple[str, ...], *, seconds: float) -> AsyncIterator[bytes]:
        """The binary messages of a WebSocket at `path` until it closes, for `seconds` at most. Raises ApiError."""
        import aiohttp

        headers = {"Authorization": f"Bearer {token}"} if (token := self._token()) else {}
        try:
            async with (
                asyncio.timeout(seconds),
                self._opened().ws_connect(
                    self._cluster.server + path,
                    protocols=protocols,
                    headers=headers,
                    max_msg_size=0,
                    ssl=self._identity.tls(),
                    server_hostname=self._cluster.tls_server_name or None,
                ) as stream,
            ):
                async for message in stream:
                    if message.type == aiohttp.WSMsgType.BINARY:
                        yield message.data
        except aiohttp.WSServerHandshakeError as error:
            raise ApiError(error.status, "Unknown", f"{path.partition('?')[0]}: {error.message}") from error
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            raise ApiError(
                0, "ConnectionError", f"{path.partition('?')[0]}: {error or type(error).__name__}"
            ) from error

    async def _pages(self, path: str, query: dict[str, str]) -> tuple[_Items, str]:
        """All items of a list, page by page. A continue token that went stale (410) starts over with one big page."""
        items: _Items = []
        ask = {**query, "limit": str(PAGE)}
        while True:
            try:
                body = await self._bytes("GET", path, query=ask)
            except ApiError as error:
                if error.status != 410 or "continue" not in ask:
                    raise
                items, ask = [], dict(query)
                continue
            page = _lists.decode(body)
            items += page.items or []
            if not page.metadata.continue_:
                return items, page.metadata.resourceVersion
            ask["continue"] = page.metadata.continue_

    async def _call(
        self,
        method: str,
        path: str,
        *,
        query: dict[str, str] | None = None,
        body: Any = None,
        content_type: str = "application/json",
    ) -> Object:
        answer = await self._bytes(method, path, query=query, body=body, content_type=content_type)
        try:
            return _objects.decode(answer) if answer else {}
        except msgspec.DecodeError as error:
            raise ApiError(
                0, "ConnectionError", f"{method} {path}: the answer is not a JSON object: {error}"
            ) from error

    async def _bytes(
        self,
        method: str,
        path: str,
        *,
        query: dict[str, str] | None = None,
        body: Any = None,
        content_type: str = "application/json",
    ) -> bytes:
        import aiohttp

        timeout = aiohttp.ClientTimeout(total=CALL_SECONDS)
        async with self._request(method, path, query, body, content_type, timeout) as response:
            return await response.read()

    @asynccontextmanager
    async def _request(
        self,
        method: str,
        path: str,
        query: dict[str, str] | None,
        body: Any,
        content_type: str,
        timeout: aiohttp.ClientTimeout,
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """One exchange; a transport error at any moment, and every refusal, becomes ApiError."""
        import aiohttp

        headers = {"Accept": "application/json"}
        content = None
        if body is not None:
            content = msgspec.json.encode(body)
            headers["Content-Type"] = content_type
        try:
            if token := self._token():
                headers["Authorization"] = f"Bearer {token}"
            async with self._opened().request(
                method,
                self._cluster.server + path,
                params=query or {},
                data=content,
                headers=headers,
                timeout=timeout,
                ssl=self._identity.tls(),
                server_hostname=self._cluster.tls_server_name or None,
            ) as response:
                if response.status == 401:
                    self._identity.doubt()
                if response.status >= 400:
                    refusal = _refusal(response.status, await response.read(), f"{method} {path}")
                    if (seconds := response.headers.get("Retry-After", "")).isdecimal():
                        refusal.details.setdefault("retryAfterSeconds", int(seconds))
                    raise refusal
                yield response
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            self._identity.doubt()
            words = str(error) or type(error).__name__
            raise ApiError(0, "ConnectionError", f"{method} {self._cluster.server}{path}: {words}") from error

    def _opened(self) -> aiohttp.ClientSession:
        """The session of the running loop (a new loop, as after a fork, gets a new one)."""
        import aiohttp

        loop = asyncio.get_running_loop()
        if self._session is None or self._session.closed or self._loop is not loop:
            connector = aiohttp.TCPConnector(limit=0, ttl_dns_cache=30, socket_factory=_socket)
            self._session = aiohttp.ClientSession(
                connector=connector, headers={"User-Agent": self._agent}, auto_decompress=True
            )
            self._loop = loop
        return self._session

    def _token(self) -> str:
        if self._cluster.token_file:
            return Path(self._cluster.token_file).read_text().strip()
        return self._cluster.token


class _HttpSource:
    """One collection for `reflect`."""

    def __init__(self, client: Client, gvr: GVR, path: str, query: dict[str, str], decode: type[Any] | None) -> None:
        self._client, self._gvr, self._path, self._query = client, gvr, path, query
        self._decoder = msgspec.json.Decoder(decode) if decode is not None else None

    async def snapshot(self) -> tuple[list[Record], str]:
        try:
            items, version = await self._client._pages(self._path, self._query)
            return [self._record(item) for item in items], version
        except ApiError as error:
            raise _stream_error(error) from error
        except msgspec.DecodeError as error:
            raise Interrupted(f"the list is not understood: {error}") from error

    async def stream(self) -> AsyncGenerator[Change, None]:
        """Asks for the newest that there is. A server that does not know the question refuses it as invalid; one that
        takes it and never says that it is through is not asked again."""
        asked = {"sendInitialEvents": "true", "resourceVersionMatch": "NotOlderThan", "resourceVersion": ""}
        learned = False
        try:
            async for change in self._watch(asked):
                learned = learned or change.type == "LEARNED"
                yield change
        except _Refused as refused:
            if refused.error.status in (400, 422) or (refused.silent and not learned):
                raise Unstreamed from refused
            raise _stream_error(refused.error) from refused
        if not learned:
            raise Interrupted("the stream ended before everything was told")

    async def changes(self, version: str) -> AsyncGenerator[Change, None]:
        try:
            async for change in self._watch({"resourceVersion": version}):
                yield change
        except _Refused as refused:
            raise _stream_error(refused.error) from refused

    async def _watch(self, asked: dict[str, str]) -> AsyncGenerator[Change, None]:
        """Raises _Refused, Interrupted, Gone."""
        import aiohttp

        query = {
            **self._query,
            **asked,
            "watch": "1",
            "allowWatchBookmarks": "true",
            "timeoutSeconds": str(random.randint(300, 600)),
        }
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=CALL_SECONDS, sock_read=self._client._idle)
        try:
            async with self._client._request("GET", self._path, query, None, "", timeout) as response:
                rest = b""
                async for chunk in response.content.iter_any():
                    *lines, rest = (rest + chunk).split(b"\n")
                    for line in lines:
                        if line:
                            yield self._change(line)
        except ApiError as error:
            raise _Refused(error) from error
        except msgspec.DecodeError as error:
            raise Interrupted(f"an event is not understood: {error}") from error

    def _change(self, line: bytes) -> Change:
        event = _events.decode(line)
        if event.type == "ERROR":
            status = msgspec.json.decode(event.object, type=_Status)
            if status.code == 410 or status.reason in ("Expired", "Gone"):
                raise Gone
            raise Interrupted(f"{status.reason}: {status.message}", _retry_after(status.details))
        if event.type == "BOOKMARK":
            meta = _bare.decode(event.object).metadata
            kind = "LEARNED" if meta.annotations.get(_INITIAL_END) == "true" else "BOOKMARK"
            return Change(kind, Record(("", ""), meta.resourceVersion, None))
        return Change(event.type, self._record(event.object))

    def _record(self, body: msgspec.Raw) -> Record:
        """An object that does not fit the asked type is told as absent: it must not stop the others."""
        if self._decoder is None:
            value = _objects.decode(body)
            value.setdefault("apiVersion", self._gvr.api_version)
            value.setdefault("kind", self._gvr.kind)
            metadata = value["metadata"]
            key = (metadata.get("namespace", ""), metadata["name"])
            return Record(key, metadata.get("resourceVersion", ""), value)
        try:
            record = self._decoder.decode(body)
            meta = record.metadata
        except msgspec.ValidationError as error:
            record, meta = None, _bare.decode(body).metadata
            name = f"{meta.namespace}/{meta.name}" if meta.namespace else meta.name
            log.warning("object not understood kind=%s name=%s error=%s", self._gvr.kind, name, error)
        return Record((meta.namespace, meta.name), meta.resourceVersion, record)


def _selectors(label_selector: str, field_selector: str) -> dict[str, str]:
    asked = {"labelSelector": label_selector, "fieldSelector": field_selector}
    return {key: value for key, value in asked.items() if value}


class _Refused(Exception):
    """A watch that the server refused, or that broke."""

    def __init__(self, error: ApiError) -> None:
        super().__init__(error.message)
        self.error = error
        self.silent = isinstance(error.__cause__, TimeoutError)


def _stream_error(error: ApiError) -> Exception:
    return Gone() if error.status == 410 else Interrupted(error.message, _retry_after(error.details))


def _retry_after(details: Object | None) -> float:
    """What the server asks for, within reason."""
    seconds = (details or {}).get("retryAfterSeconds", 0)
    return min(float(seconds), 60.0) if isinstance(seconds, int) else 0.0


def _socket(info: Any) -> socket.socket:
    """A TCP socket that notices when the other end is no longer there. `info` is what getaddrinfo gives."""
    family, kind, protocol, _, _ = info
    made = socket.socket(family, kind, protocol)
    for level, option, value in _KEEPALIVE:
        made.setsockopt(level, option, value)
    return made


def _refusal(status: int, body: bytes, call: str) -> ApiError:
    try:
        told = msgspec.json.decode(body, type=_Status)
    except msgspec.DecodeError:
        return ApiError(status, "Unknown", f"{call}: {body[:500].decode('utf-8', 'replace').strip() or status}")
    return ApiError(status, told.reason or "Unknown", told.message or f"{call}: status {status}", told.details)

"""DELs that the shim kept while no agent answered: they are done before anything newer, and once.

A file is a whole request, named ROLE,CONTAINERID,IFNAME. The runtime was told that the DEL succeeded, and may ADD the
same attachment again: so a kept DEL is done before that ADD is served, never after it. (The file is there before the
shim answers the DEL, hence before the ADD can come.) A newer DEL takes the kept one's place.
"""

from __future__ import annotations

import contextlib
import logging
import os
import threading
import time
from pathlib import Path

import msgspec

from podwire.agent import cnisocket
from podwire.agent.cnisocket import ProtocolError, Serve
from podwire.cni.errors import (
    BAD_CONFIG,
    BAD_ENVIRONMENT,
    DECODE_FAILURE,
    INCOMPATIBLE_VERSION,
    TRY_AGAIN,
    CniError,
)

log = logging.getLogger(__name__)

DRAIN_SECONDS = 5.0
_STALE_SECONDS = 600.0
_HOPELESS = {INCOMPATIBLE_VERSION, BAD_ENVIRONMENT, DECODE_FAILURE, BAD_CONFIG}
"""Answers that the same bytes get for ever."""


class Spool:
    """Stands in front of `inner`, which serves calls; may be used from several threads."""

    def __init__(self, directory: Path, inner: Serve) -> None:
        self._directory = directory
        self._prefix = os.fspath(directory) + "/"
        self._inner = inner
        self._lock = threading.Lock()
        self._ended = threading.Event()
        self._thread: threading.Thread | None = None

    def serve(self, env: dict[str, str], stdin: bytes, netns: int | None) -> tuple[int, bytes]:
        """A call: after what was kept of the same attachment."""
        command = env.get("CNI_COMMAND")
        kept = self._kept(env) if command in ("ADD", "CHECK", "DEL") else None
        if kept is None:
            return self._inner(env, stdin, netns)
        if command != "DEL":
            if not self._settle(kept):
                details = f"{kept.name} is in the spool"
                words = "an earlier DEL of this attachment is not done yet"
                return 1, CniError(TRY_AGAIN, words, details).encode("")
            return self._inner(env, stdin, netns)
        code, output = self._inner(env, stdin, netns)
        if code == 0:
            with self._lock:
                kept.unlink(missing_ok=True)
        return code, output

    def start(self) -> None:
        """Do what is there, then look again now and then: a shim may have missed the agent's start by a hair."""
        self.drain()
        self._thread = threading.Thread(target=self._run, name="spool", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        self._ended.set()
        if self._thread is not None:
            self._thread.join()

    def drain(self) -> int:
        """Do the DELs that are kept; how many were done. One that fails stays."""
        try:
            names = sorted(os.listdir(self._directory))  # noqa: PTH208 (names are wanted)
        except OSError:
            return 0
        for name in names:
            if name.startswith("."):
                self._tidy(self._directory / name)
        return sum(self._settle(self._directory / name) for name in names if not name.startswith("."))

    def _run(self) -> None:
        while not self._ended.wait(DRAIN_SECONDS):
            try:
                self.drain()
            except OSError as error:
                log.error("spool not drained directory=%s error=%s", self._directory, error)

    def _kept(self, env: dict[str, str]) -> Path | None:
        """The file of the call's attachment, if there is one."""
        parts = (env.get("PODWIRE_ROLE", "podwire"), env.get("CNI_CONTAINERID", ""), env.get("CNI_IFNAME", ""))
        name = ",".join(parts)
        if "/" in name or "\0" in name or not all(parts) or name.startswith("."):
            return None  # the shim refuses such names
        try:
            os.lstat(self._prefix + name)
        except OSError:
            return None
        return self._directory / name

    def _settle(self, path: Path) -> bool:
        """Do one kept DEL and forget it; False when it must be tried again."""
        with self._lock:
            try:
                descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
                with os.fdopen(descriptor, "rb") as file:
                    env, stdin = cnisocket.decode_request(file.read(2 * cnisocket.LIMIT_BYTES + 9))
                if env.get("CNI_COMMAND") != "DEL":
                    raise ProtocolError(f"{env.get('CNI_COMMAND')!r} is no DEL")
            except FileNotFoundError:
                return True  # another thread did it
            except (ProtocolError, OSError) as error:
                self._set_aside(path, str(error))
                return True
            # the path of the namespace may have become another's since (/proc/PID/ns/net); the host's side suffices
            code, output = self._inner({**env, "CNI_NETNS": ""}, stdin, None)
            if code == 0:
                path.unlink(missing_ok=True)
                return True
            words = output.decode(errors="replace").strip()
            if _number(output) in _HOPELESS:
                self._set_aside(path, words)
                return True
            log.warning("kept DEL failed file=%s answer=%s", path, words)
            return False

    def _set_aside(self, path: Path, why: str) -> None:
        """What no agent will ever understand is kept for a human to look at, out of the way."""
        log.error("kept DEL unreadable file=%s error=%s", path, why)
        with contextlib.suppress(OSError):
            path.rename(path.with_name(f".broken.{path.name}"))

    def _tidy(self, path: Path) -> None:
        """Files of shims that were killed while writing; the runtime has no answer of theirs."""
        with contextlib.suppress(OSError):
            if not path.name.startswith(".broken.") and time.time() - path.lstat().st_mtime > _STALE_SECONDS:
                path.unlink()


def _number(output: bytes) -> object:
    """The code of an error object."""
    try:
        answer = msgspec.json.decode(output)
    except msgspec.DecodeError:
        return None
    return answer.get("code") if isinstance(answer, dict) else None

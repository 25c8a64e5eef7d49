"""How long CNI calls take, without a cost to them: a call leaves a tuple behind, and whoever scrapes counts.

Also for the names in a call, which are the caller's: what is no verb or plugin of ours is counted as "other".
"""

from __future__ import annotations

import time
from collections import deque

import msgspec

from podwire.agent import families
from podwire.agent.cnisocket import Serve
from podwire.agent.figures import Figures

VERBS = frozenset({"ADD", "DEL", "CHECK", "GC", "STATUS", "VERSION"})
ROLES = frozenset({"podwire", "podwire-ipam", "portmap", "bandwidth", "loopback", "host-local"})
KEPT = 512
"""Calls that may wait to be counted; one call in so many counts them itself (well under a millisecond)."""


class _Refusal(msgspec.Struct):
    code: int = 0


_refusals = msgspec.json.Decoder(_Refusal)


class Calls:
    """Stands in front of `inner`, which serves calls; may be used from several threads."""

    def __init__(self, inner: Serve, figures: Figures) -> None:
        self._inner = inner
        self._figures = figures
        self._done: deque[tuple[str, str, int, bytes, float]] = deque()

    def serve(self, env: dict[str, str], stdin: bytes, netns: int | None) -> tuple[int, bytes]:
        began = time.perf_counter()
        code, output = self._inner(env, stdin, netns)
        spent = time.perf_counter() - began
        self._done.append(
            (env.get("CNI_COMMAND", ""), env.get("PODWIRE_ROLE", "podwire"), code, output if code else b"", spent)
        )
        if len(self._done) >= KEPT:
            self.count()
        return code, output

    def count(self) -> None:
        """Bring the calls so far into the figures."""
        for _ in range(len(self._done)):
            try:
                verb, role, code, output, seconds = self._done.popleft()
            except IndexError:  # another thread counts, too
                return
            self._figures.observe(
                families.CNI_CALLS,
                seconds,
                verb if verb in VERBS else "other",
                role if role in ROLES else "other",
                _code(code, output),
            )


def _code(code: int, output: bytes) -> str:
    if not code:
        return "0"
    try:
        found = _refusals.decode(output).code
    except msgspec.DecodeError:
        return "other"
    return str(found) if 0 < found < 200 else "other"

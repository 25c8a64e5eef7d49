"""What the agent says of itself: /livez, /readyz and /metrics on loopback."""

from __future__ import annotations

import socket
import threading
from dataclasses import dataclass, field

from podwire.agent.figures import Figures
from podwire.http.server import Request, Response, Server, serve

_TEXT = "text/plain; charset=utf-8"
_METRICS = "text/plain; version=0.0.4; charset=utf-8"


@dataclass
class Health:
    """Shared by the rooms of the agent: why it is not ready, and its figures. Safe for several threads."""

    reasons: dict[str, str] = field(default_factory=lambda: {"start": "starting"})
    parts: dict[str, None] = field(default_factory=lambda: {"start": None})
    figures: Figures = field(default_factory=Figures)
    _guard: threading.Lock = field(default_factory=threading.Lock)

    @property
    def ready(self) -> bool:
        return not self.reasons

    def not_ready(self, part: str, why: str) -> None:
        with self._guard:
            self.parts[part] = None
            self.reasons = {**self.reasons, part: why}

    def good(self, part: str) -> None:
        with self._guard:
            self.reasons = {name: why for name, why in self.reasons.items() if name != part}


async def listen(health: Health, port: int, *, everywhere: bool = False) -> Server:
    """Serve on 127.0.0.1:`port`; `everywhere`: on all addresses of a pod of its own. Raises OSError."""

    async def answer(request: Request) -> Response:
        if request.path == "/livez":
            return Response(body=b"ok\n", content_type=_TEXT)
        if request.path == "/readyz":
            reasons = dict(health.reasons)
            text = "".join(f"{part}: {why}\n" for part, why in sorted(reasons.items())) or "ok\n"
            return Response(status=503 if reasons else 200, body=text.encode(), content_type=_TEXT)
        if request.path == "/metrics":
            return Response(body=health.figures.text().encode(), content_type=_METRICS)
        return Response(status=404, body=b"not found\n", content_type=_TEXT)

    dual = everywhere and socket.has_dualstack_ipv6()
    family = socket.AF_INET6 if dual else socket.AF_INET
    listener = socket.create_server(("" if everywhere else "127.0.0.1", port), family=family, dualstack_ipv6=dual)
    return await serve(answer, [listener])

"""The token of a service account, as the client sends it: the file's content of this moment."""

from __future__ import annotations

from pathlib import Path

from aiohttp import web

from podwire.kube.client import Client
from podwire.kube.kubeconfig import Cluster
from podwire.model.gvr import NODES


async def test_a_rotated_token_is_used_at_once(tmp_path: Path) -> None:
    sent: list[str] = []

    async def answer(request: web.Request) -> web.Response:
        sent.append(request.headers.get("Authorization", ""))
        return web.json_response({"kind": "NodeList", "apiVersion": "v1", "metadata": {}, "items": []})

    app = web.Application()
    app.router.add_route("*", "/{path:.*}", answer)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    port = site._server.sockets[0].getsockname()[1]  # type: ignore[union-attr]
    token = tmp_path / "token"
    client = Client(Cluster(f"http://127.0.0.1:{port}", token_file=str(token)))
    try:
        for words in ("one", "two"):
            token.write_text(f"{words}\n")
            await client.list(NODES)
    finally:
        await client.close()
        await runner.cleanup()
    assert sent == ["Bearer one", "Bearer two"]

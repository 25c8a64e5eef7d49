"""Credentials that are exchanged while the client lives: real TLS, an authority that is replaced, a certificate too."""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

import pytest
import yaml
from aiohttp import web

from podwire.kube import incluster, kubeconfig
from podwire.kube.client import Client
from podwire.lab import pki
from podwire.model.api import ApiError
from podwire.model.gvr import NODES


def authority(folder: Path) -> Path:
    """A CA with the certificates of a server and of a client; its folder."""
    folder.mkdir()
    own = pki._authority(folder, "test")
    pki._issue(folder, pki.Wanted("server", "server", addresses=("127.0.0.1",), serving=True), *own)
    pki._issue(folder, pki.Wanted("client", f"client-of-{folder.name}"), *own)
    return folder


@asynccontextmanager
async def serving(place: Path, port: int = 0, clients: Path | None = None) -> AsyncIterator[tuple[int, list[str]]]:
    """An API that has no nodes: its port, and the token or the certificate's name of each call."""
    called: list[str] = []

    async def answer(request: web.Request) -> web.Response:
        shown = request.get_extra_info("peercert") or {}
        names = [value for ((field, value),) in shown.get("subject", ()) if field == "commonName"]
        called.append(request.headers.get("Authorization", "") or "".join(names))
        headers = {"Connection": "close"}
        return web.json_response({"kind": "NodeList", "metadata": {}, "items": []}, headers=headers)

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(place / "server.crt", place / "server.key")
    if clients is not None:
        context.verify_mode = ssl.CERT_REQUIRED
        context.load_verify_locations(clients / "ca.crt")
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", answer)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", port, ssl_context=context, reuse_address=True)
    await site.start()
    try:
        yield site._server.sockets[0].getsockname()[1], called  # type: ignore[union-attr]
    finally:
        await runner.cleanup()


async def test_an_authority_in_a_pod_is_followed(tmp_path: Path) -> None:
    """As kubelet replaces ca.crt and token; no restart, and no call fails once the file is there."""
    old, new = authority(tmp_path / "old"), authority(tmp_path / "new")
    account = tmp_path / "account"
    account.mkdir()
    for name, text in (("ca.crt", (old / "ca.crt").read_text()), ("token", "one"), ("namespace", "kube-system")):
        (account / name).write_text(text)
    async with serving(old) as (port, called):
        read = partial(incluster.cluster, f"https://127.0.0.1:{port}", account)
        client = Client(read(), again=read)
        await client.list(NODES)
        assert called == ["Bearer one"]
    try:
        async with serving(new, port) as (_, called):
            with pytest.raises(ApiError, match="CERTIFICATE_VERIFY_FAILED"):
                await client.list(NODES)
            (account / "ca.crt").write_text("half of a certif")  # whoever writes it is not done
            with pytest.raises(ApiError, match="CERTIFICATE_VERIFY_FAILED"):
                await client.list(NODES)
            (account / "fresh").write_text((new / "ca.crt").read_text())
            (account / "fresh").rename(account / "ca.crt")
            (account / "token").write_text("two")
            await client.list(NODES)
            assert called == ["Bearer two"]
    finally:
        await client.close()


async def test_a_host_services_certificate_is_followed(tmp_path: Path) -> None:
    """In the kubeconfig itself, or in files that it names."""
    old, new = authority(tmp_path / "old"), authority(tmp_path / "new")
    for place in (old, new):
        for name in ("client.crt", "client.key"):
            (tmp_path / f"{place.name}-{name}").write_bytes((place / name).read_bytes())

    def write(port: int, place: Path) -> None:
        document = {
            "current-context": "x",
            "contexts": [{"name": "x", "context": {"cluster": "x", "user": "x"}}],
            "clusters": [
                {
                    "name": "x",
                    "cluster": {"server": f"https://127.0.0.1:{port}", "certificate-authority": "old/ca.crt"},
                }
            ],
            "users": [
                {
                    "name": "x",
                    "user": {
                        "client-certificate": f"{place.name}-client.crt",
                        "client-key": f"{place.name}-client.key",
                    },
                }
            ],
        }
        (tmp_path / "kubeconfig").write_text(yaml.safe_dump(document))

    async with serving(old, clients=old) as (port, called):
        write(port, old)
        read = partial(kubeconfig.load, tmp_path / "kubeconfig")
        client = Client(read(), again=read)
        await client.list(NODES)
        assert called == ["client-of-old"]
    try:
        async with serving(old, port, clients=new) as (_, called):
            with pytest.raises(ApiError):
                await client.list(NODES)
            write(port, new)
            await client.list(NODES)
            for name in ("client.crt", "client.key"):  # and now in the files that it names
                (tmp_path / f"new-{name}").write_bytes((old / name).read_bytes())
            client._identity.doubt()  # instead of waiting five seconds
            with pytest.raises(ApiError):
                await client.list(NODES)
            assert called == ["client-of-new"]
    finally:
        await client.close()


async def test_without_a_way_to_read_it_again_nothing_changes(tmp_path: Path) -> None:
    """What the caller gave as a value stays."""
    old = authority(tmp_path / "old")
    async with serving(old) as (port, called):
        cluster = kubeconfig.Cluster(f"https://127.0.0.1:{port}", ca=(old / "ca.crt").read_bytes())
        client = Client(cluster)
        try:
            client._identity.doubt()
            await client.list(NODES)
        finally:
            await client.close()
    assert called == [""]

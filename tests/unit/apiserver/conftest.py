"""A running API server on loopback, with a throw-away certificate authority, and raw HTTP to speak to it."""

from __future__ import annotations

import contextlib
import datetime
import ipaddress
import json
import os
import secrets
import socket
import ssl
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from podwire.apiserver.server import ApiServer, ApiServerConfig, start
from podwire.model.gvr import SERVICEACCOUNTS

CERTIFICATE = serialization.Encoding.PEM


@dataclass(frozen=True)
class Pki:
    """PEM files of one test run."""

    ca: Path
    server_cert: Path
    server_key: Path
    client_cert: Path
    client_key: Path


def _certificate(name: str, groups: list[str], issuer: Any = None) -> tuple[Any, Any]:
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name(
        [
            *(x509.NameAttribute(NameOID.ORGANIZATION_NAME, each) for each in groups),
            x509.NameAttribute(NameOID.COMMON_NAME, name),
        ]
    )
    now = datetime.datetime.now(datetime.UTC)
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer[0].subject if issuer else subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.BasicConstraints(ca=issuer is None, path_length=None), critical=True)
        .add_extension(
            x509.SubjectAlternativeName([x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]),
            critical=False,
        )
    )
    return builder.sign(issuer[1] if issuer else key, hashes.SHA256()), key


def make_pki(folder: Path) -> Pki:
    authority = _certificate("test-ca", [])
    files = Pki(*(folder / name for name in ("ca.crt", "server.crt", "server.key", "client.crt", "client.key")))
    files.ca.write_bytes(authority[0].public_bytes(CERTIFICATE))
    for (cert, key), cert_file, key_file in (
        (_certificate("kube-apiserver", [], authority), files.server_cert, files.server_key),
        (_certificate("admin", ["system:masters"], authority), files.client_cert, files.client_key),
    ):
        cert_file.write_bytes(cert.public_bytes(CERTIFICATE))
        plain = serialization.NoEncryption()
        key_file.write_bytes(key.private_bytes(CERTIFICATE, serialization.PrivateFormat.PKCS8, plain))
    return files


def server_tls(pki: Pki) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pki.server_cert, pki.server_key)
    context.load_verify_locations(pki.ca)
    context.verify_mode = ssl.CERT_OPTIONAL
    return context


@pytest.fixture(scope="session")
def pki(tmp_path_factory: pytest.TempPathFactory) -> Pki:
    return make_pki(tmp_path_factory.mktemp("pki"))


@dataclass
class Answer:
    """One HTTP answer, its body decoded when it is JSON."""

    status: int
    headers: Any
    text: str

    @property
    def json(self) -> Any:
        return json.loads(self.text)


class Http:
    """Raw requests to an API server: the one that PODWIRE_CONTRACT_SERVER names, or the one a test started."""

    def __init__(self, url: str, tls: ssl.SSLContext) -> None:
        self.url, self.tls = url, tls
        self.session: aiohttp.ClientSession | None = None

    async def __call__(
        self, method: str, path: str, body: Any = None, kind: str = "application/json", **headers: str
    ) -> Answer:
        async with self.open(method, path, body, kind, **headers) as answer:
            return Answer(answer.status, answer.headers, await answer.text())

    def open(self, method: str, path: str, body: Any = None, kind: str = "application/json", **headers: str) -> Any:
        if self.session is None:
            self.session = aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=20))
        data = body if isinstance(body, bytes | None) else json.dumps(body).encode()
        sent = {"Content-Type": kind} if body is not None else {}
        sent |= {key.replace("_", "-"): value for key, value in headers.items()}
        return self.session.request(method, self.url + path, data=data, headers=sent, ssl=self.tls)

    async def close(self) -> None:
        if self.session:
            await self.session.close()


def client_tls(ca: str, cert: str = "", key: str = "") -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=ca)
    if cert:
        context.load_cert_chain(cert, key)
    return context


@dataclass
class Running:
    """A server under test and how to reach it."""

    server: ApiServer
    url: str
    http: Http
    pki: Pki


@contextlib.asynccontextmanager
async def _server(pki: Pki, folder: Path) -> AsyncIterator[Running]:
    sock = socket.socket()
    sock.bind(("127.0.0.1", 0))
    sock.listen()
    url = f"https://127.0.0.1:{sock.getsockname()[1]}"
    server = await start(ApiServerConfig(folder / "db", [sock], server_tls(pki), b"key"))
    await server.client.create(SERVICEACCOUNTS, {"metadata": {"name": "default"}}, "default")
    http = Http(url, client_tls(str(pki.ca), str(pki.client_cert), str(pki.client_key)))
    yield Running(server, url, http, pki)
    await http.close()
    await server.close()


@pytest.fixture
async def running(pki: Pki, tmp_path: Path) -> AsyncIterator[Running]:
    async with _server(pki, tmp_path) as started:
        yield started


@pytest.fixture
async def http(pki: Pki, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Http]:
    """For contract tests: a genuine server when PODWIRE_CONTRACT_SERVER, _CA, _CERT and _KEY say where."""
    url = os.environ.get("PODWIRE_CONTRACT_SERVER", "")
    if not url:
        async with _server(pki, tmp_path_factory.mktemp("contract")) as started:
            yield started.http
        return
    names = [os.environ[f"PODWIRE_CONTRACT_{each}"] for each in ("CA", "CERT", "KEY")]
    made = Http(url, client_tls(*names))
    yield made
    await made.close()


@pytest.fixture
async def space(http: Http) -> AsyncIterator[str]:
    """A fresh namespace with the service account that a controller would make."""
    name = f"c-{secrets.token_hex(4)}"
    answer = await http("POST", "/api/v1/namespaces", {"metadata": {"name": name}})
    assert answer.status == 201, answer.text
    answer = await http("POST", f"/api/v1/namespaces/{name}/serviceaccounts", {"metadata": {"name": "default"}})
    assert answer.status == 201, answer.text
    yield name
    await http("DELETE", f"/api/v1/namespaces/{name}")

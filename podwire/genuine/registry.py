"""The only registry that a genuine lab's nodes know: it has the prepared images, stand-ins under any tag.

Read-only, HTTP, in the router between the nodes. A node has the layers already; what it asks for is which image a name
means, as kubelet does for every start of a container whose tag is `latest`. Source: OCI distribution-spec, "Pull".
"""

from __future__ import annotations

import http.server
import json
import re
import shutil
import socketserver
import tarfile
from collections.abc import Mapping
from http import HTTPStatus
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

from podwire.genuine import store
from podwire.kubelet import standins
from podwire.kubelet.reference import DEFAULT_REGISTRY, InvalidReference, Reference, parse

PORT = 5000
_PATH = re.compile(r"/v2/(?P<name>.+)/(?P<what>manifests|blobs)/(?P<which>[^/]+)")
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")


def resolve(reference: Reference, names: Mapping[str, str]) -> str:
    """The digest of the image that the reference means, or "": of that name, or else the stand-in's under any name."""
    if found := names.get(reference.name):
        return found
    wanted = standins.find(reference)
    if wanted is None:
        return ""
    return next((digest for name, digest in names.items() if standins.find(parse(name)) is wanted), "")


def asked(path: str) -> tuple[str, str, str] | None:
    """(image name with its registry, "manifests" or "blobs", tag or digest) of a request's path, or None."""
    parts = urlsplit(path)
    match = _PATH.fullmatch(parts.path)
    if match is None:
        return None
    registry = parse_qs(parts.query).get("ns", [DEFAULT_REGISTRY])[0]
    return f"{registry}/{match['name']}", match["what"], match["which"]


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server_version = "podwire-images"
    sys_version = ""
    timeout = 60
    place: Path
    later: Path
    names: Mapping[str, str]

    def do_HEAD(self) -> None:
        """As GET, without the content."""
        self._answer(content=False)

    def do_GET(self) -> None:
        """A manifest or a blob."""
        self._answer(content=True)

    def _answer(self, *, content: bool) -> None:
        if urlsplit(self.path).path.rstrip("/") == "/v2":
            self._send(HTTPStatus.OK, b"{}", "application/json", "", content=content)
            return
        wanted = asked(self.path)
        digest = self._digest(*wanted) if wanted else ""
        file = self._file(digest) if digest else None
        if wanted is None or file is None:
            code = "MANIFEST_UNKNOWN" if wanted and wanted[1] == "manifests" else "BLOB_UNKNOWN"
            words = "nothing is pulled here: podwire lab load ARCHIVE brings an image"
            body = json.dumps({"errors": [{"code": code, "message": words}]}).encode()
            self._send(HTTPStatus.NOT_FOUND, body, "application/json", "", content=content)
        elif wanted[1] == "manifests":
            body = file.read_bytes()
            kind = json.loads(body).get("mediaType", "application/vnd.oci.image.manifest.v1+json")
            self._send(HTTPStatus.OK, body, kind, digest, content=content)
        else:
            self._stream(file, digest, content=content)

    def _digest(self, name: str, what: str, which: str) -> str:
        if _DIGEST.fullmatch(which):
            return which
        if what == "blobs":
            return ""
        try:
            return resolve(parse(f"{name}:{which}"), {**self.names, **loaded(self.later)})
        except InvalidReference:
            return ""

    def _file(self, digest: str) -> Path | None:
        places = (self.later / "blobs" / digest.removeprefix("sha256:"), store.blob(self.place, digest))
        return next((path for path in places if path.is_file()), None)

    def _send(self, status: HTTPStatus, body: bytes, kind: str, digest: str, *, content: bool) -> None:
        self._head(status, len(body), kind, digest)
        if content:
            self.wfile.write(body)

    def _stream(self, file: Path, digest: str, *, content: bool) -> None:
        with file.open("rb") as blob:
            self._head(HTTPStatus.OK, file.stat().st_size, "application/octet-stream", digest)
            while content and (data := blob.read(1 << 20)):
                self.wfile.write(data)

    def _head(self, status: HTTPStatus, size: int, kind: str, digest: str) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(size))
        if digest:
            self.send_header("Docker-Content-Digest", digest)
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        """Nothing: a line for each start of a container tells nobody anything."""


class _Server(socketserver.ThreadingMixIn, http.server.HTTPServer):
    allow_reuse_address = True
    daemon_threads = True


def add(later: Path, archive: Path, digests: Mapping[str, str]) -> None:
    """Let the registry have the images of `archive` (an OCI layout in a tar), too; `digests` are their manifests'."""
    blobs = later / "blobs"
    blobs.mkdir(parents=True, exist_ok=True)
    with tarfile.open(archive) as layout:
        for member in layout:
            name = member.name.removeprefix("./")
            if member.isreg() and name.startswith("blobs/sha256/") and (data := layout.extractfile(member)):
                fresh = blobs / f".{Path(name).name}"
                with fresh.open("wb") as file:
                    shutil.copyfileobj(data, file, 1 << 20)
                fresh.rename(blobs / Path(name).name)
    fresh = later / ".names.json"
    fresh.write_text(json.dumps({**loaded(later), **digests}))
    fresh.rename(later / "names.json")


def loaded(later: Path) -> dict[str, str]:
    """Names and digests of what was added."""
    try:
        found = json.loads((later / "names.json").read_text())
    except FileNotFoundError:
        return {}
    return {str(name): str(digest) for name, digest in found.items()}


def server(place: Path, later: Path, address: tuple[str, int]) -> socketserver.TCPServer:
    """A server of the store, and of what is added to `later` meanwhile; it listens already."""
    handler = type("Handler", (_Handler,), {"place": place, "later": later, "names": store.names(place)})
    return _Server(address, handler)


def run(place: Path, later: Path, address: str) -> None:
    """Serve for ever at `address`:5000."""
    server(place, later, (address, PORT)).serve_forever(poll_interval=3600)

"""The registry of a genuine lab, and what a node is given of the shared images."""

from __future__ import annotations

import hashlib
import http.client
import io
import json
import tarfile
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from podwire.genuine import registry, store
from podwire.kubelet.reference import parse

NGINX, OTHER = "docker.io/library/nginx:latest", "example.com/app:1"


def digest(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


MANIFEST = json.dumps({"mediaType": "application/vnd.oci.image.manifest.v1+json", "of": "nginx"}).encode()
SECOND = json.dumps({"of": "app"}).encode()


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A store with one image, as containerd would leave it."""
    found = tmp_path / "store"
    for name in ("content.v1.content/blobs/sha256", "snapshotter.v1.overlayfs/snapshots/1/fs", "metadata.v1.bolt"):
        (found / "root" / f"io.containerd.{name}").mkdir(parents=True)
    store.blob(found, digest(MANIFEST)).write_bytes(MANIFEST)
    (found / "root/io.containerd.metadata.v1.bolt/meta.db").write_text("meta")
    (found / "root/io.containerd.snapshotter.v1.overlayfs/metadata.db").write_text("snapshots")
    (found / "names.json").write_text(json.dumps({NGINX: digest(MANIFEST)}))
    return found


@pytest.mark.parametrize(
    ("reference", "found"),
    [
        ("nginx", True),
        ("nginx:1.9", True),
        ("mirror.gcr.io/library/nginx:1", True),
        ("example.com/none:1", False),
        ("httpd", False),
    ],
)
def test_a_stand_in_has_any_tag(reference: str, found: bool) -> None:
    assert bool(registry.resolve(parse(reference), {NGINX: digest(MANIFEST)})) == found


def test_what_a_request_asks_for() -> None:
    assert registry.asked("/v2/library/nginx/manifests/1?ns=docker.io") == ("docker.io/library/nginx", "manifests", "1")
    assert registry.asked("/v2/a/b/c/blobs/sha256:0?ns=x.io:5000") == ("x.io:5000/a/b/c", "blobs", "sha256:0")
    assert registry.asked("/v2/nginx/tags/list") is None


@pytest.fixture
def address(place: Path, tmp_path: Path) -> Iterator[tuple[str, int]]:
    server = registry.server(place, tmp_path / "later", ("127.0.0.1", 0))
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    yield "127.0.0.1", server.server_address[1]
    server.shutdown()
    server.server_close()
    thread.join()


def get(address: tuple[str, int], path: str, method: str = "GET") -> tuple[int, bytes, str]:
    connection = http.client.HTTPConnection(*address, timeout=10)
    connection.request(method, path)
    answer = connection.getresponse()
    body = answer.read()
    connection.close()
    return answer.status, body, answer.headers.get("Docker-Content-Digest", "")


def test_pulls(address: tuple[str, int], tmp_path: Path) -> None:
    assert get(address, "/v2/")[0] == 200
    path = "/v2/library/nginx/manifests/1.27?ns=docker.io"
    assert get(address, path) == (200, MANIFEST, digest(MANIFEST))
    assert get(address, path, "HEAD") == (200, b"", digest(MANIFEST))
    assert get(address, f"/v2/library/nginx/blobs/{digest(MANIFEST)}?ns=docker.io")[:2] == (200, MANIFEST)
    for wrong in ("/v2/none/manifests/1", "/v2/nginx/blobs/../../names.json", f"/v2/nginx/blobs/{digest(b'')}", "/etc"):
        assert get(address, wrong)[0] == 404
    status, body, _ = get(address, "/v2/none/manifests/1?ns=example.com")
    assert (status, "podwire lab load" in json.loads(body)["errors"][0]["message"]) == (404, True)


def test_images_loaded_later(address: tuple[str, int], tmp_path: Path) -> None:
    archive = tmp_path / "images.tar"
    with tarfile.open(archive, "w") as tar:
        for name in (f"blobs/sha256/{digest(SECOND)[7:]}", "index.json"):
            info = tarfile.TarInfo(name)
            info.size = len(SECOND)
            tar.addfile(info, io.BytesIO(SECOND))
    asked = "/v2/app/manifests/1?ns=example.com"
    assert get(address, asked)[0] == 404
    registry.add(tmp_path / "later", archive, {OTHER: digest(SECOND)})
    assert get(address, asked) == (200, SECOND, digest(SECOND))
    assert not (tmp_path / "later/blobs/index.json").exists()


def test_a_node_gets_links_and_its_own_metadata(place: Path, tmp_path: Path) -> None:
    target = tmp_path / "node"
    store.lay_out(place, Path("/opt/store"), target)
    blob = target / "io.containerd.content.v1.content/blobs/sha256" / digest(MANIFEST)[7:]
    assert str(blob.readlink()).startswith("/opt/store/root/io.containerd.content")
    assert str((target / "io.containerd.snapshotter.v1.overlayfs/snapshots/1").readlink()).endswith("snapshots/1")
    meta = target / "io.containerd.metadata.v1.bolt/meta.db"
    assert not meta.is_symlink()
    meta.write_text("changed by the node")
    store.lay_out(place, Path("/opt/store"), target)  # after a reboot
    assert meta.read_text() == "changed by the node"
    assert (place / "root/io.containerd.metadata.v1.bolt/meta.db").read_text() == "meta"

"""Loading archives: docker and OCI form, compression, whiteouts, several platforms; and what is refused."""

import gzip
import hashlib
import io
import json
import os
import platform
import shutil
import stat
import subprocess
import tarfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest

from podwire.kubelet import archive, images
from podwire.kubelet.archive import ArchiveError
from podwire.kubelet.layer import LayerError, safe_parts, unpack

ARCH = archive.ARCHITECTURES[platform.machine()]
Entry = tuple[str, str, str]  # name, kind, content or target


def tar(entries: Iterable[tuple[tarfile.TarInfo, bytes]]) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as file:
        for info, content in entries:
            info.size = len(content)
            file.addfile(info, io.BytesIO(content))
    return out.getvalue()


def layer(*entries: Entry) -> bytes:
    kinds = {
        "file": tarfile.REGTYPE,
        "dir": tarfile.DIRTYPE,
        "link": tarfile.SYMTYPE,
        "hard": tarfile.LNKTYPE,
        "char": tarfile.CHRTYPE,
        "block": tarfile.BLKTYPE,
        "fifo": tarfile.FIFOTYPE,
    }
    members = []
    for name, kind, text in entries:
        info = tarfile.TarInfo(name)
        info.type = kinds[kind]
        info.mode = 0o755
        info.linkname = text if kind in ("link", "hard") else ""
        members.append((info, text.encode() if kind == "file" else b""))
    return tar(members)


def sha(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def config(layers: list[bytes], arch: str = ARCH, **settings: Any) -> bytes:
    return json.dumps(
        {
            "os": "linux",
            "architecture": arch,
            "config": settings,
            "rootfs": {"type": "layers", "diff_ids": [f"sha256:{sha(content)}" for content in layers]},
        }
    ).encode()


def docker_save(path: Path, layers: list[bytes], tags: list[str] | None, **settings: Any) -> Path:
    raw = config(layers, **settings)
    files = {f"{index}/layer.tar": content for index, content in enumerate(layers)}
    files["config.json"] = raw
    files["manifest.json"] = json.dumps(
        [{"Config": "config.json", "RepoTags": tags, "Layers": [f"{index}/layer.tar" for index in range(len(layers))]}]
    ).encode()
    path.write_bytes(tar((tarfile.TarInfo(name), content) for name, content in files.items()))
    return path


def oci(
    path: Path, by_arch: dict[str, list[bytes]], name: str, compress: Callable[[bytes], bytes] = bytes, spoil: str = ""
) -> Path:
    blobs: dict[str, bytes] = {}

    def blob(content: bytes) -> str:
        blobs[f"blobs/sha256/{sha(content)}"] = content
        return f"sha256:{sha(content)}"

    inner = []
    for arch, layers in by_arch.items():
        stored = [{"digest": blob(compress(content)), "size": 1} for content in layers]
        manifest = {"config": {"digest": blob(config(layers, arch))}, "layers": stored}
        digest = blob(json.dumps(manifest).encode())
        inner.append({"digest": digest, "platform": {"os": "linux", "architecture": arch}})
    index = blob(json.dumps({"manifests": inner}).encode())
    top = {"manifests": [{"digest": index, "annotations": {"io.containerd.image.name": name}}]}
    files = {"oci-layout": b"{}", "index.json": json.dumps(top).encode(), **blobs}
    if spoil:
        files = {
            key: content + b" " if spoil in content.decode("latin-1") else content for key, content in files.items()
        }
    path.write_bytes(tar((tarfile.TarInfo(key), content) for key, content in files.items()))
    return path


def test_docker_save_becomes_an_image(tmp_path: Path) -> None:
    lower = layer(("bin", "dir", ""), ("bin/app", "file", "#!/bin/sh"), ("bin/sh", "link", "app"), ("old", "file", "x"))
    upper = layer((".wh.old", "file", ""), ("bin/new", "file", "n"), ("bin/.wh..wh..opq", "file", ""))
    tarball = docker_save(
        tmp_path / "a.tar",
        [lower, upper],
        ["app:1", "ghcr.io/me/app:1"],
        Entrypoint=["/bin/app"],
        Cmd=["-v"],
        Env=["A=b"],
        WorkingDir="/w",
        User="1000",
    )
    cache = tmp_path / "cache"
    assert archive.load(tarball, cache) == ["docker.io/library/app:1", "ghcr.io/me/app:1"]
    image = images.resolve("app:1", cache)
    assert (image.entrypoint, image.cmd, image.env) == (("/bin/app",), ("-v",), ("A=b",))
    assert (image.workdir, image.user, image.stand_in) == ("/w", "1000", "")
    top, bottom = image.layers
    assert (bottom / "bin/app").read_text() == "#!/bin/sh"
    gone = (top / "old").lstat()
    assert stat.S_ISCHR(gone.st_mode) and gone.st_rdev == 0
    assert os.getxattr(top / "bin", "user.overlay.opaque") == b"y"
    assert not any((cache / "images/layers").glob(".layer-*"))


def test_a_layer_is_unpacked_once_and_the_last_load_of_a_name_wins(tmp_path: Path) -> None:
    shared, other = layer(("a", "file", "1")), layer(("b", "file", "2"))
    archive.load(docker_save(tmp_path / "1.tar", [shared], ["x"]), tmp_path)
    before = (tmp_path / "images/layers" / sha(shared)).stat()
    archive.load(docker_save(tmp_path / "2.tar", [shared, other], ["x"]), tmp_path)
    assert (tmp_path / "images/layers" / sha(shared)).stat().st_ino == before.st_ino
    assert len(images.resolve("x", tmp_path).layers) == 2


def test_a_loaded_image_wins_over_a_stand_in(tmp_path: Path) -> None:
    archive.load(docker_save(tmp_path / "1.tar", [layer(("a", "file", "1"))], ["nginx:1.27"]), tmp_path)
    assert images.resolve("nginx:1.27", tmp_path).stand_in == ""


def zstd(content: bytes) -> bytes:
    return subprocess.run(["zstd", "-q", "-c"], input=content, capture_output=True, check=True).stdout


@pytest.mark.parametrize(
    "compress",
    [bytes, gzip.compress, pytest.param(zstd, marks=pytest.mark.skipif(not shutil.which("zstd"), reason="no zstd"))],
)
def test_oci_archives_of_several_platforms(tmp_path: Path, compress: Callable[[bytes], bytes]) -> None:
    mine, foreign = [layer(("a", "file", "mine"))], [layer(("a", "file", "foreign"))]
    tarball = oci(tmp_path / "o.tar", {"s390x": foreign, ARCH: mine}, "docker.io/library/many:2", compress)
    assert archive.load(tarball, tmp_path) == ["docker.io/library/many:2"]
    assert (images.resolve("many:2", tmp_path).layers[0] / "a").read_text() == "mine"
    with tarfile.open(tarball) as file:
        index = json.load(file.extractfile("index.json"))  # type: ignore[arg-type]
    by_digest = images.resolve(f"many:other@{index['manifests'][0]['digest']}", tmp_path)
    assert by_digest.layers == images.resolve("many:2", tmp_path).layers


REFUSED = [
    ([("/etc/passwd", "file", "x")], "absolute"),
    ([("../x", "file", "x")], "leaves the layer"),
    ([("a/../../x", "file", "x")], "leaves the layer"),
    ([("up", "link", "/etc"), ("h", "hard", "up/passwd")], "no file of this layer"),
    ([("h", "hard", "/etc/passwd")], "absolute"),
    ([("h", "hard", "../../etc/passwd")], "leaves the layer"),
    ([("sda", "block", "")], "device"),
    ([("x/null", "char", "")], "device"),
    ([(".wh.", "file", "")], "removes nothing"),
    ([(".wh...", "file", "")], "removes nothing"),
    ([("a", "link", "b"), ("b", "link", "a"), ("a/c", "file", "x")], "loop"),
]


@pytest.mark.parametrize(("entries", "words"), REFUSED, ids=[str(row[0][-1]) for row in REFUSED])
def test_hostile_entries_are_refused_and_leave_nothing(tmp_path: Path, entries: list[Entry], words: str) -> None:
    tarball = docker_save(tmp_path / "bad.tar", [layer(*entries)], ["bad"])
    with pytest.raises(ArchiveError, match=words):
        archive.load(tarball, tmp_path / "cache")
    left = [path.name for path in (tmp_path / "cache").rglob("*") if path.name not in ("images", "layers", "lock")]
    assert left == []
    with pytest.raises(images.ImageNotFound, match="podwire lab load"):
        images.resolve("bad", tmp_path / "cache")


def test_links_of_the_layer_itself_lead_nowhere_outside(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    (outside / "sub").mkdir(parents=True, mode=0o700)
    target = str(outside)
    content = layer(
        ("abs", "link", target),
        ("abs/planted", "file", "x"),
        ("up", "link", "../../../../../../.." + target),
        ("up/planted", "file", "x"),
        ("dir", "dir", ""),
        ("dir/sub", "dir", ""),
        ("dir", "link", target),
        ("dev/null", "char", ""),
        ("file", "link", f"{target}/victim"),
        ("file", "file", "replaced, not followed"),
    )
    unpack(io.BytesIO(content), tmp_path / "layer", sha(content))
    assert [path.name for path in outside.rglob("*")] == ["sub"]
    assert stat.S_IMODE((outside / "sub").stat().st_mode) == 0o700
    assert (tmp_path / "layer/file").read_text() == "replaced, not followed"
    assert (tmp_path / "layer" / target.lstrip("/") / "planted").read_text() == "x"
    assert not (tmp_path / "layer/dev/null").exists()


def test_damage_is_told(tmp_path: Path) -> None:
    good = layer(("a", "file", "1"))
    with pytest.raises(LayerError, match="content"):
        unpack(io.BytesIO(good), tmp_path / "l", "0" * 64)
    with pytest.raises(LayerError, match="not a sound tar"):
        unpack(io.BytesIO(gzip.compress(good)[:40]), tmp_path / "l", sha(good))
    with pytest.raises(ArchiveError, match="damaged"):
        archive.load(oci(tmp_path / "o.tar", {ARCH: [good]}, "x", spoil='"layers"'), tmp_path)
    assert not (tmp_path / "l").exists()


def test_archives_that_are_none(tmp_path: Path) -> None:
    text = tmp_path / "text"
    text.write_text("hello")
    with pytest.raises(ArchiveError, match="not a readable tar"):
        archive.load(text, tmp_path)
    empty = tmp_path / "empty.tar"
    empty.write_bytes(tar([(tarfile.TarInfo("x"), b"")]))
    with pytest.raises(ArchiveError, match=r"neither manifest\.json"):
        archive.load(empty, tmp_path)
    with pytest.raises(ArchiveError, match="names no image"):
        archive.load(docker_save(tmp_path / "n.tar", [layer(("a", "file", ""))], None), tmp_path)
    with pytest.raises(ArchiveError, match="s390x"):
        archive.load(docker_save(tmp_path / "f.tar", [layer()], ["x"], arch="s390x"), tmp_path)
    with pytest.raises(ArchiveError, match=f"nothing for linux/{ARCH}"):
        archive.load(oci(tmp_path / "p.tar", {"s390x": [layer()]}, "x"), tmp_path)
    with pytest.raises(FileNotFoundError):
        archive.load(tmp_path / "missing.tar", tmp_path)


def test_safe_parts() -> None:
    assert safe_parts("./a//b/") == ["a", "b"]
    assert safe_parts(".") == []

"""Images into a file and back: what is written is what `podwire lab load` reads, the same bytes every time."""

from __future__ import annotations

import json
import os
import stat
import tarfile
from pathlib import Path

import pytest

from podwire.kubelet import archive, clusterimages
from podwire.kubelet.image import ImageError
from podwire.kubelet.imagewriter import Entry, NewImage, copy, folder, write
from podwire.kubelet.reference import parse

NAME = "docker.io/library/x:1"


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A folder with every kind of entry that a layer can have."""
    root = tmp_path / "tree"
    (root / "usr/bin").mkdir(parents=True)
    (root / "usr/bin/tool").write_text("#!/bin/sh\n")
    (root / "usr/bin/tool").chmod(0o4755)
    os.link(root / "usr/bin/tool", root / "usr/bin/zweitname-ä")
    (root / "bin").symlink_to("usr/bin")
    (root / "empty").mkdir(mode=0o1777)
    (root / "empty").chmod(0o1777)
    os.mkfifo(root / "pipe")
    (root / ("deep" * 40)).mkdir()
    (root / ("deep" * 40) / ("name" * 40)).write_bytes(b"x" * 1500)
    return root


def seen(root: Path) -> dict[str, tuple[int, str, bytes, int]]:
    """Everything in a folder: mode, link target, content, hard links."""
    result = {}
    for path in sorted(root.rglob("*")):
        status = path.lstat()
        target = str(path.readlink()) if path.is_symlink() else ""
        content = path.read_bytes() if stat.S_ISREG(status.st_mode) else b""
        links = 1 if stat.S_ISDIR(status.st_mode) else status.st_nlink
        result[str(path.relative_to(root))] = (status.st_mode, target, content, links)
    return result


def loaded(tar: Path, cache: Path, name: str = NAME) -> list[dict[str, tuple[int, str, bytes, int]]]:
    """The layers of the image of that name, after loading the archive; the lowest first."""
    archive.load(tar, cache)
    image = archive.find(parse(name), cache)
    assert image is not None
    return [seen(layer) for layer in reversed(image.layers)]


def test_a_folder_comes_back_as_it_was(tree: Path, tmp_path: Path) -> None:
    write(tmp_path / "x.tar", [NewImage((NAME,), (tree,))])
    assert loaded(tmp_path / "x.tar", tmp_path / "cache") == [seen(tree)]


def test_settings_come_back(tmp_path: Path) -> None:
    layer = (Entry("hello", b"hi", 0o755), Entry("etc/link", mode=stat.S_IFLNK | 0o777, link="/hello"))
    wanted = NewImage(
        (NAME, "registry.example:5000/y:2"),
        (layer,),
        ("/hello",),
        ("a", "b"),
        ("A=1", "B="),
        "/tmp",
        "65535:0",
        {"k": "v"},
    )
    digests = write(tmp_path / "x.tar", [wanted])
    assert list(digests) == [NAME, "registry.example:5000/y:2"]
    assert archive.load(tmp_path / "x.tar", tmp_path / "cache") == list(digests)
    for name, digest in digests.items():
        found = archive.find(parse(name), tmp_path / "cache")
        assert found is not None
        assert archive.find(parse(f"{name.rpartition(':')[0]}@{digest}"), tmp_path / "cache") is not None
        assert copy(found, wanted.names) == NewImage(
            wanted.names, found.layers, wanted.entrypoint, wanted.cmd, wanted.env, wanted.workdir, wanted.user
        )
        assert seen(found.layers[0]) == {
            "hello": (stat.S_IFREG | 0o755, "", b"hi", 1),
            "etc": (stat.S_IFDIR | 0o755, "", b"", 1),
            "etc/link": (stat.S_IFLNK | 0o777, "/hello", b"", 1),
        }


def test_removals_come_back(tmp_path: Path) -> None:
    lower = (Entry("a/one", b"1"), Entry("a/.wh.two"), Entry("b/.wh..wh..opq"), Entry("b/three", b"3"))
    write(tmp_path / "x.tar", [NewImage((NAME,), (lower,))])
    (first,) = loaded(tmp_path / "x.tar", tmp_path / "cache")
    image = archive.find(parse(NAME), tmp_path / "cache")
    assert image is not None
    assert stat.S_ISCHR(first["a/two"][0])
    assert sorted(entry.path for entry in folder(image.layers[0])) == [
        "a", "a/.wh.two", "a/one", "b", "b/.wh..wh..opq", "b/three",
    ]  # fmt: skip
    write(tmp_path / "y.tar", [copy(image, (NAME,))])
    assert loaded(tmp_path / "y.tar", tmp_path / "other") == [first]


def test_the_same_content_is_the_same_bytes_and_stored_once(tree: Path, tmp_path: Path) -> None:
    images = [
        NewImage(("one",), (tree,)),
        NewImage(("two",), (tree, (Entry("more", b"more"),)), ("/more",)),
        NewImage(("three",), (tuple(folder(tree)),)),
    ]
    write(tmp_path / "x.tar", images)
    again = tmp_path / "again"
    tree.rename(again)
    again.rename(tree)
    (tree / "usr/bin/tool").touch()
    write(tmp_path / "y.tar", images)
    assert (tmp_path / "x.tar").read_bytes() == (tmp_path / "y.tar").read_bytes()
    with tarfile.open(tmp_path / "x.tar") as tar:
        members = tar.getnames()
        index = json.load(tar.extractfile("index.json"))  # type: ignore[arg-type]
    assert len(members) == len(set(members)) == 2 + 2 + 2 + 2  # two layers, two configurations, two manifests
    names = [entry["annotations"]["io.containerd.image.name"] for entry in index["manifests"]]
    assert names == [f"docker.io/library/{name}:latest" for name in ("one", "two", "three")]
    assert archive.load(tmp_path / "x.tar", tmp_path / "cache") == names


def test_a_prefix_and_a_capability(tree: Path, tmp_path: Path) -> None:
    assert {entry.path for entry in folder(tree, "opt/x")} >= {"opt/x/bin", "opt/x/usr/bin/tool"}
    can = b"\x01\x00\x00\x02\x00\x20\x00\x00\x00\x00\x00\x00\xff\x00\x00\x00\x00\x00\x00\x00"
    write(tmp_path / "x.tar", [NewImage((NAME,), ((Entry("ping", b"p", 0o755, capability=can),),))])
    assert can in (tmp_path / "x.tar").read_bytes()


@pytest.mark.parametrize("path", ["/etc/passwd", "../x", "a/../../x"])
def test_no_entry_leaves_the_image(path: str, tmp_path: Path) -> None:
    with pytest.raises(ImageError, match=r"absolute|leaves"):
        write(tmp_path / "x.tar", [NewImage((NAME,), ((Entry(path),),))])
    assert not list(tmp_path.iterdir())


def test_a_device_is_refused_and_nothing_is_left(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match="is a device or a socket"):
        write(tmp_path / "x.tar", [NewImage((NAME,), (Path("/dev"),))])
    with pytest.raises(ImageError, match="'x' is a device"):
        write(tmp_path / "x.tar", [NewImage((NAME,), ((Entry("x", mode=stat.S_IFBLK),),))])
    assert not list(tmp_path.iterdir())


def test_cluster_images_name_what_is_lacking(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match="needs the private root"):
        clusterimages.ensure(tmp_path, tmp_path)

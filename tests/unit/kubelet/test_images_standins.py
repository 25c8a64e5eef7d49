"""Which image a name means, and what stands in for it."""

import stat
from pathlib import Path

import pytest

from podwire.kubelet import debfinish, images, standins
from podwire.kubelet.reference import InvalidReference, parse

DIGEST = "sha256:" + "ab" * 32


@pytest.mark.parametrize(
    ("text", "full"),
    [
        ("nginx", "docker.io/library/nginx:latest"),
        ("nginx:1.27", "docker.io/library/nginx:1.27"),
        ("curlimages/curl", "docker.io/curlimages/curl:latest"),
        ("docker.io/nginx", "docker.io/library/nginx:latest"),
        ("index.docker.io/library/nginx", "docker.io/library/nginx:latest"),
        ("localhost/a:1", "localhost/a:1"),
        ("localhost:5000/a/b", "localhost:5000/a/b:latest"),
        ("registry.k8s.io/pause:3.10", "registry.k8s.io/pause:3.10"),
        (f"nginx@{DIGEST}", f"docker.io/library/nginx@{DIGEST}"),
        (f"nginx:1@{DIGEST}", f"docker.io/library/nginx:1@{DIGEST}"),
    ],
)
def test_references_are_completed_as_docker_does(text: str, full: str) -> None:
    assert parse(text).name == full
    assert parse(full).name == full


@pytest.mark.parametrize(
    "text", ["", "Nginx", "a b", "nginx:", "nginx@", "nginx@sha256:12", "a//b", "-a", "a:b:c", "x/../y"]
)
def test_what_is_no_reference(text: str) -> None:
    with pytest.raises(InvalidReference):
        parse(text)


@pytest.mark.parametrize(
    ("reference", "name"),
    [
        ("nginx:1.27-alpine", "nginx"),
        ("public.ecr.aws/docker/library/nginx", "nginx"),
        (f"mirror.gcr.io/library/busybox@{DIGEST}", "busybox"),
        ("quay.io/curl/curl", "curl"),
        ("curlimages/curl:8.1", "curl"),
        ("nicolaka/netshoot", "netshoot"),
        ("wbitt/network-multitool:alpine-extra", "multitool"),
        ("praqma/network-multitool", "multitool"),
        ("registry.k8s.io/pause:3.9", "pause"),
        ("k8s.gcr.io/e2e-test-images/agnhost:2.39", "agnhost"),
        ("mycompany/nginx", None),
        ("postgres", None),
    ],
)
def test_who_stands_in(reference: str, name: str | None) -> None:
    found = standins.find(parse(reference))
    assert (found.name if found else None) == name


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    root = tmp_path / "root-x"
    for program in {program for stand_in in standins.CATALOG for program in stand_in.needs}:
        (root / program).parent.mkdir(parents=True, exist_ok=True)
        (root / program).write_text("#!/bin/sh\necho '['; echo wget; echo ls; echo sh\n")
        (root / program).chmod(0o755)
    (root / debfinish.PACKAGE_LIST).parent.mkdir(parents=True)
    (root / debfinish.PACKAGE_LIST).write_text("nginx 1.22.1-9+deb12u1\nbusybox-static 1:1.35.0-4+b1\n")
    (root / "usr/lib/os-release").parent.mkdir(parents=True, exist_ok=True)
    (root / "usr/lib/os-release").write_text('NAME="Debian GNU/Linux"\nVERSION_ID="12"\n')
    (tmp_path / "root").symlink_to("root-x")
    return tmp_path


def test_a_stand_in_is_a_small_layer_over_the_root(cache: Path) -> None:
    image = images.resolve("nginx:1.27", cache)
    layer, root = image.layers
    assert image.stand_in == "nginx 1.22.1 from Debian 12"
    assert root == cache / "root-x"
    assert image.entrypoint == ("/docker-entrypoint.sh",)
    assert image.cmd == ("nginx", "-g", "daemon off;")
    assert "Welcome to nginx!" in (layer / "usr/share/nginx/html/index.html").read_text()
    assert (layer / "var/log/nginx/access.log").readlink() == Path("/dev/stdout")
    assert stat.S_IMODE((layer / "docker-entrypoint.sh").stat().st_mode) == 0o755
    assert stat.S_IMODE((layer / "etc/nginx/nginx.conf").stat().st_mode) == 0o644


def test_the_same_image_has_the_same_id_under_every_name(cache: Path) -> None:
    first, second = images.resolve("nginx", cache), images.resolve("quay.io/nginx/nginx:9", cache)
    assert first.image_id == second.image_id and first.layers == second.layers
    assert first.image_id != images.resolve("wbitt/network-multitool", cache).image_id


def test_busybox_applets_come_first_but_for_the_wrapped_ones(cache: Path) -> None:
    image = images.resolve("busybox:1.36", cache)
    programs = image.layers[0] / "bin"
    assert (programs / "ls").readlink() == Path("busybox")
    assert not (programs / "wget").is_symlink() and not (programs / "sh").readlink().match("busybox")
    assert image.env[0].startswith("PATH=/usr/local/sbin:/usr/local/bin:/bin:")


def test_prepare_makes_every_layer_and_half_made_ones_do_not_stay(cache: Path) -> None:
    standins.prepare(cache)
    made = sorted(path.name.rpartition("-")[0] for path in (cache / "standins").iterdir())
    assert made == sorted(stand_in.name for stand_in in standins.CATALOG)
    for path in (cache / "standins").iterdir():
        path.chmod(0o555)
    assert images.resolve("debian", cache).cmd == ("bash",)


def test_without_programs_it_says_what_is_missing(cache: Path) -> None:
    (cache / "root-x/usr/sbin/nginx").unlink()
    with pytest.raises(images.ImageError, match="/usr/sbin/nginx"):
        images.resolve("nginx", cache)
    (cache / "root").unlink()
    with pytest.raises(images.ImageError, match="private root"):
        images.resolve("busybox", cache)


def test_an_unknown_image_tells_how_to_load_it(cache: Path) -> None:
    with pytest.raises(images.ImageNotFound, match=r"docker save me/app:2 .* podwire lab load"):
        images.resolve("me/app:2", cache)

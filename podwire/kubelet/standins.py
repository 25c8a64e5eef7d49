"""Stand-ins for well-known images: what they are, and the small layer each lays over the private Debian root.

The layer's files live beside this module in `standin_files/<name>/`, as they appear in the image, and are copied into
`<cache>/standins/<name>-<hash>/` once. A stand-in shows the entry point, command, paths and ports of the image whose
name it has; the programs are Debian's. It works where uid 0 is the only user there is.
"""

import hashlib
import shutil
import subprocess
import tempfile
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from podwire.kubelet.debfinish import PACKAGE_LIST
from podwire.kubelet.image import Image, ImageError
from podwire.kubelet.reference import Reference

FILES = Path(__file__).parent / "standin_files"
PATH = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
BUSYBOX_PATH = "PATH=/usr/local/sbin:/usr/local/bin:/bin:/sbin:/usr/sbin:/usr/bin"
_NOT_LINKED = "ash busybox dpkg dpkg-deb env find nc nice nohup rpm rpm2cpio setsid sh time timeout watch wget xargs"
NOT_LINKED = frozenset(_NOT_LINKED.split())
"""Applets without a link in /bin. Debian's busybox runs other applets by itself, past $PATH and so past the wrappers of
`standin_files/busybox`: the shell and what starts programs are therefore Debian's own."""
SHELLS = ("sh", "ash")


@dataclass(frozen=True, slots=True)
class StandIn:
    """One image that Debian's programs stand in for."""

    name: str
    paths: tuple[str, ...]
    """Repository paths it answers to, without the registry; any tag or digest."""
    program: str
    """The package whose version it is called after."""
    needs: tuple[str, ...]
    """Programs that must be in the root, relative to it."""
    entrypoint: tuple[str, ...] = ()
    cmd: tuple[str, ...] = ()
    env: tuple[str, ...] = ()
    workdir: str = ""
    links: tuple[tuple[str, str], ...] = ()
    """Symbolic links of the layer: where, to what."""
    applets: bool = False
    """Whether busybox's applets come first, as the image of that name has nothing else."""


CATALOG: tuple[StandIn, ...] = (
    StandIn(
        "nginx",
        ("nginx", "nginx/nginx", "nginxinc/nginx", "e2e-test-images/nginx"),
        "nginx",
        ("usr/sbin/nginx",),
        ("/docker-entrypoint.sh",),
        ("nginx", "-g", "daemon off;"),
        links=(("var/log/nginx/access.log", "/dev/stdout"), ("var/log/nginx/error.log", "/dev/stderr")),
    ),
    StandIn(
        "httpd",
        ("httpd", "e2e-test-images/httpd"),
        "apache2-bin",
        ("usr/sbin/apache2",),
        (),
        ("httpd-foreground",),
        ("HTTPD_PREFIX=/usr/local/apache2",),
        "/usr/local/apache2",
        (("usr/local/bin/httpd", "/usr/sbin/apache2"), ("usr/local/apache2/bin", "/usr/local/bin")),
    ),
    StandIn(
        "busybox",
        ("busybox", "e2e-test-images/busybox"),
        "busybox-static",
        ("usr/bin/busybox",),
        (),
        ("sh",),
        applets=True,
    ),
    StandIn("alpine", ("alpine",), "busybox-static", ("usr/bin/busybox",), (), ("/bin/sh",), applets=True),
    StandIn("debian", ("debian",), "base-files", ("usr/bin/bash",), (), ("bash",)),
    StandIn(
        "curl", ("curl", "curl/curl", "curlimages/curl"), "curl", ("usr/bin/curl",), ("/entrypoint.sh",), ("curl",)
    ),
    StandIn(
        "netshoot",
        ("netshoot", "nicolaka/netshoot"),
        "iproute2",
        ("usr/bin/bash",),
        (),
        ("zsh",),
        (),
        "/root",
        (("usr/bin/zsh", "bash"),),
    ),
    StandIn(
        "multitool",
        (
            "network-multitool",
            "wbitt/network-multitool",
            "praqma/network-multitool",
            "praqma/multitool",
            "praqma/network-tools",
        ),
        "nginx",
        ("usr/sbin/nginx",),
        ("/bin/sh", "/docker/entrypoint.sh"),
        ("/usr/sbin/nginx", "-g", "daemon off;"),
        links=(("var/log/nginx/access.log", "/dev/stdout"), ("var/log/nginx/error.log", "/dev/stderr")),
    ),
    StandIn(
        "pause", ("pause", "google_containers/pause", "rancher/mirrored-pause"), "dash", ("usr/bin/sh",), ("/pause",)
    ),
    StandIn(
        "agnhost",
        ("agnhost", "e2e-test-images/agnhost", "kubernetes-e2e-test-images/agnhost"),
        "socat",
        ("usr/bin/bash", "usr/bin/socat", "usr/bin/curl"),
        ("/agnhost",),
        ("pause",),
        links=(("agnhost-2", "agnhost"),),
    ),
)


def find(reference: Reference) -> StandIn | None:
    """The stand-in for a name: in any registry or mirror, with any tag or digest."""
    path = reference.path
    for prefix in ("docker/", "library/"):
        path = path.removeprefix(prefix)
    for stand_in in CATALOG:
        if path in stand_in.paths:
            return stand_in
    return None


def image(stand_in: StandIn, reference: str, cache: Path) -> Image:
    """The stand-in as an image, its layer made if it is not there. Raises ImageError."""
    root = (cache / "root").resolve()
    if not (root / "usr/bin").is_dir():
        raise ImageError(f"the stand-in for {reference} needs the private root in {cache}, which is not there")
    for program in stand_in.needs:
        if not (root / program).exists():
            raise ImageError(f"the stand-in for {reference} needs /{program}, which this machine could not provide")
    layer = _layer(stand_in, cache, root)
    path = BUSYBOX_PATH if stand_in.applets else PATH
    identity = "\0".join((layer.name, root.name, path, *stand_in.entrypoint, "\0", *stand_in.cmd, *stand_in.env))
    return Image(
        reference=reference,
        image_id="sha256:" + hashlib.sha256(identity.encode()).hexdigest(),
        layers=(layer, root),
        entrypoint=stand_in.entrypoint,
        cmd=stand_in.cmd,
        env=(path, *stand_in.env),
        workdir=stand_in.workdir,
        stand_in=describe(stand_in, root),
    )


def prepare(cache: Path) -> None:
    """Make every layer whose programs are there, so that nodes may find the cache read-only."""
    root = (cache / "root").resolve()
    for stand_in in CATALOG:
        if all((root / program).exists() for program in stand_in.needs):
            _layer(stand_in, cache, root)


def describe(stand_in: StandIn, root: Path) -> str:
    """What it really is, such as `nginx 1.22.1 from Debian 12`."""
    versions = dict(line.split(" ", 1) for line in (root / PACKAGE_LIST).read_text().splitlines())
    if not versions:
        return f"{stand_in.program} of this machine"
    version = versions.get(stand_in.program, "").rpartition(":")[2].split("-")[0].split("+")[0]
    release = {"": ""} | dict(
        line.split("=", 1) for line in (root / "usr/lib/os-release").read_text().splitlines() if "=" in line
    )
    distribution = f"{release.get('NAME', 'Debian')} {release.get('VERSION_ID', '')}".replace('"', "").strip()
    distribution = distribution.replace(" GNU/Linux", "")
    program = {"apache2-bin": "apache2", "busybox-static": "busybox"}.get(stand_in.program, stand_in.program)
    if stand_in.name == "debian":
        return f"{distribution}, unpacked packages"
    return f"{program} {version} from {distribution}"


def _layer(stand_in: StandIn, cache: Path, root: Path) -> Path:
    """The stand-in's own directory, made in one step so that nobody sees half of it."""
    source = FILES / stand_in.name
    overlaid = FILES / "busybox" if stand_in.applets else None
    place = cache / "standins" / f"{stand_in.name}-{_fingerprint(stand_in, source, overlaid, root)}"
    if place.is_dir():
        return place
    place.parent.mkdir(parents=True, exist_ok=True)
    fresh = Path(tempfile.mkdtemp(prefix=f".{stand_in.name}-", dir=place.parent))
    try:
        if overlaid is not None:
            _applets(fresh, root)
            _copy(overlaid, fresh)
        if source.is_dir() and source != overlaid:
            _copy(source, fresh)
        for link, target in stand_in.links:
            (fresh / link).parent.mkdir(parents=True, exist_ok=True)
            (fresh / link).symlink_to(target)
        fresh.chmod(0o755)
        with suppress(OSError):  # somebody else was quicker, with the same content
            fresh.rename(place)
    finally:
        shutil.rmtree(fresh, ignore_errors=True)
    if not place.is_dir():
        raise ImageError(f"the layer {place} cannot be made")
    return place


def _fingerprint(stand_in: StandIn, source: Path, overlaid: Path | None, root: Path) -> str:
    digest = hashlib.sha256(f"2\0{root.name if overlaid else ''}\0{stand_in.links}".encode())
    for directory in filter(None, (overlaid, source)):
        for file in sorted(path for path in directory.rglob("*") if path.is_file()):
            digest.update(f"{file.relative_to(directory)}\0".encode() + file.read_bytes() + b"\0")
    return digest.hexdigest()[:12]


def _copy(source: Path, target: Path) -> None:
    for file in sorted(source.rglob("*")):
        place = target / file.relative_to(source)
        if file.is_dir():
            place.mkdir(parents=True, exist_ok=True)
            place.chmod(0o755)
            continue
        place.unlink(missing_ok=True)
        content = file.read_bytes()
        place.write_bytes(content)
        place.chmod(0o755 if content.startswith(b"#!") else 0o644)


def _applets(layer: Path, root: Path) -> None:
    """A real /bin with busybox and a link for each of its applets, as the image has."""
    program = layer / "bin/busybox"
    program.parent.mkdir(mode=0o755)
    shutil.copy(root / "usr/bin/busybox", program)
    listed = subprocess.run([str(program), "--list"], capture_output=True, text=True, check=True).stdout.split()
    for applet in listed:
        if applet not in NOT_LINKED and "/" not in applet:
            (layer / "bin" / applet).symlink_to("busybox")
    shell = next((path for path in ("usr/bin/bash", "usr/bin/dash") if (root / path).exists()), "bin/busybox")
    for name in SHELLS:
        (layer / "bin" / name).symlink_to(f"/{shell}")

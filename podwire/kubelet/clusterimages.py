"""The images a genuine cluster starts with, in one archive: no registry is asked for any of them.

What the kubelet of `podwire lab` takes from the cache by name, containerd must have under each name beforehand: the
stand-ins and loaded images, Kubernetes' own agnhost and pause, and CoreDNS.
"""

import datetime
import hashlib
import os
import stat
import time
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from podwire.kubelet import images, imagewriter
from podwire.kubelet.image import Image, ImageError
from podwire.kubelet.imagewriter import Entry, NewImage
from podwire.kubelet.reference import parse

PAUSE = "registry.k8s.io/pause:3.10.2"
"""containerd 2.4's own sandbox image."""
AGNHOST = ("registry.k8s.io/e2e-test-images/agnhost:2.63.0", "registry.k8s.io/e2e-test-images/glibc-dns-testing:2.0.0")
"""What Kubernetes v1.36's network tests run; of the second image they use dig and a shell."""
COREDNS = "registry.k8s.io/coredns/coredns:v1.15.0"
STAND_INS = (
    "nginx", "nginx:1.25", "nginx:1.27", "nginx:alpine", "httpd", "httpd:2.4", "busybox", "busybox:1.36", "alpine",
    "debian", "curlimages/curl", "nicolaka/netshoot", "wbitt/network-multitool",
    "registry.k8s.io/e2e-test-images/busybox:1.37.0-1", "registry.k8s.io/e2e-test-images/nginx:1.15-4",
)  # fmt: skip
"""Names that the guides, the tests and the lab's demonstrations ask for."""
_FORMAT = "2"
_KEPT = 24 * 3600.0
"""Seconds: another lab may be reading an archive of other content just now."""


def ensure(cache: Path, programs: Path, references: Iterable[str] = ()) -> Path:
    """The archive with these images and those of `references`, made if it is not in the cache.

    `programs` is the folder of pause, agnhost and coredns. Archives that nobody asked for in a day are removed.
    Raises ImageError when a program or the private root is lacking, InvalidReference, OSError.
    """
    wanted = dict.fromkeys(parse(reference).name for reference in (*STAND_INS, *references))
    found = {name: images.resolve(name, cache) for name in wanted}
    place = cache / "kubernetes" / f"images-{_key(found, programs)}.tar"
    if not place.is_file():
        imagewriter.write(place, [*_own(programs, cache), *_copies(found)])
        for other in place.parent.glob("images-*.tar"):
            with suppress(FileNotFoundError):
                if time.time() - other.stat().st_mtime > _KEPT:
                    other.unlink()
    os.utime(place)
    return place


def _own(programs: Path, cache: Path) -> Iterator[NewImage]:
    """Images of the programs that were built."""
    yield NewImage((PAUSE,), ((_program(programs, "pause", "pause"),),), ("/pause",), user="65535:65535")
    yield NewImage((COREDNS,), ((_program(programs, "coredns", "coredns"),),), ("/coredns",), workdir="/")
    tools = images.resolve(AGNHOST[0], cache)  # shell, curl, dig, nc: Debian's, as in the stand-in of that name
    certificate, key = _own_pair()
    layer = (
        _program(programs, "agnhost", "agnhost"),
        Entry("agnhost-2", mode=stat.S_IFLNK | 0o777, link="agnhost"),
        Entry("localhost.crt", certificate, 0o444),
        Entry("localhost.key", key, 0o444),
    )
    labels = {"io.cri-containerd.image": "managed"}
    yield NewImage(AGNHOST, (tools.layers[-1], layer), ("/agnhost",), ("pause",), tools.env, labels=labels)


def _own_pair() -> tuple[bytes, bytes]:
    """What agnhost serves TLS with, and nobody checks: a certificate for localhost by its own key, and that key."""
    from cryptography import x509  # 16 MB, and only for the one who writes the archive
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(days=3650))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .sign(key, hashes.SHA256())
    )
    pem = serialization.Encoding.PEM
    plain = serialization.NoEncryption()
    return certificate.public_bytes(pem), key.private_bytes(pem, serialization.PrivateFormat.PKCS8, plain)


def _copies(found: dict[str, Image]) -> Iterator[NewImage]:
    """One image for all names that stand for the same content."""
    names: dict[Image, list[str]] = {}
    for name, image in found.items():
        same = replace(image, reference="", image_id="", stand_in="")
        names.setdefault(same, []).append(name)
    for image, given in names.items():
        yield imagewriter.copy(image, given)


def _program(programs: Path, name: str, path: str) -> Entry:
    place = programs / name
    if not place.is_file():
        raise ImageError(f"{place} is not there: build it with make kubernetes")
    return Entry(path, place, 0o755)


def _key(found: dict[str, Image], programs: Path) -> str:
    """Of what goes in. Layers are named after their content; a program is known by size and time."""
    parts = [_FORMAT, PAUSE, COREDNS, *AGNHOST]
    for name in ("pause", "coredns", "agnhost"):
        status = (programs / name).stat() if (programs / name).is_file() else None
        parts.append(f"{name} {status.st_size} {status.st_mtime_ns}" if status else name)
    for name, image in found.items():
        parts.append(f"{name} {image.image_id} {[layer.name for layer in image.layers]}")
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:12]

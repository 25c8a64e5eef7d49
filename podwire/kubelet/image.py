"""What a container runtime needs to know of an image."""

from dataclasses import dataclass
from pathlib import Path


class ImageError(Exception):
    """Root of this room's image errors; the message is meant for a pod's Event."""


class ImageNotFound(ImageError):
    """Neither loaded nor one of the stand-ins; the message says how to load it."""


@dataclass(frozen=True, slots=True)
class Image:
    """One image, unpacked and ready to be stacked."""

    reference: str
    """Full name, as `kubectl get pod -o yaml` shows it in the container's status."""
    image_id: str
    """`sha256:…` of everything that makes the image: the same content has the same id on every node."""
    layers: tuple[Path, ...]
    """overlayfs lower directories, the uppermost first; read-only."""
    entrypoint: tuple[str, ...] = ()
    cmd: tuple[str, ...] = ()
    env: tuple[str, ...] = ()
    workdir: str = ""
    user: str = ""
    stand_in: str = ""
    """What it really is, for people; "" for a loaded image."""

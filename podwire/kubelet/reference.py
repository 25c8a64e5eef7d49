"""Image references, as container tools write them: `[registry[:port]/]path[:tag][@digest]`. Pure."""

import re
from dataclasses import dataclass

DEFAULT_REGISTRY = "docker.io"

_PATH = re.compile(r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*(?:/[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*)*")
_TAG = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,127}")
_DIGEST = re.compile(r"[A-Za-z][A-Za-z0-9]*(?:[-_+.][A-Za-z][A-Za-z0-9]*)*:[0-9a-fA-F]{32,}")
_REGISTRY = re.compile(r"(?:[A-Za-z0-9.-]+|\[[0-9a-fA-F:]+\])(?::[0-9]+)?")


class InvalidReference(ValueError):
    """The text is not an image reference; kubelet reports it as InvalidImageName."""


@dataclass(frozen=True, slots=True)
class Reference:
    """One image's full name. `tag` is "" only if a digest alone was given."""

    registry: str
    path: str
    tag: str
    digest: str

    @property
    def name(self) -> str:
        """What tools print and compare: with tag, and with the digest where one was given."""
        tag = f":{self.tag}" if self.tag else ""
        return f"{self.registry}/{self.path}{tag}" + (f"@{self.digest}" if self.digest else "")


def parse(text: str) -> Reference:
    """`nginx` -> docker.io/library/nginx:latest, and so on. Raises InvalidReference."""
    rest, _, digest = text.partition("@")
    first, slash, others = rest.partition("/")
    if slash and ("." in first or ":" in first or first == "localhost"):
        registry, rest = first, others
    else:
        registry = DEFAULT_REGISTRY
    path, colon, tag = rest.partition(":")
    if registry in ("index.docker.io", "registry-1.docker.io"):
        registry = DEFAULT_REGISTRY
    if registry == DEFAULT_REGISTRY and "/" not in path:
        path = f"library/{path}"
    if not colon and not digest:
        tag = "latest"
    sound = _REGISTRY.fullmatch(registry) and _PATH.fullmatch(path) and (_TAG.fullmatch(tag) or not (tag or colon))
    if not sound or ("@" in text and not _DIGEST.fullmatch(digest)):
        raise InvalidReference(f'couldn\'t parse image name "{text}": invalid reference format')
    return Reference(registry, path, tag, digest)

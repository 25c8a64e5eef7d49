"""From an image's name to the directories a container's root is stacked of.

Nothing is ever pulled. An image is one that `podwire lab load` put into the cache (`archive`), or else a stand-in
(`standins`): the real programs of Debian packages under the settings that the well-known image of that name has.
"""

import platform
from pathlib import Path

from podwire.kubelet import archive, standins
from podwire.kubelet.image import Image, ImageError, ImageNotFound
from podwire.kubelet.reference import InvalidReference, parse

__all__ = ["Image", "ImageError", "ImageNotFound", "InvalidReference", "resolve"]


def resolve(reference: str, cache: Path) -> Image:
    """The image of that name. Loaded ones win over stand-ins.

    Raises InvalidReference for what is no image name, ImageNotFound for what nobody loaded and nothing stands in for,
    ImageError for a stand-in whose programs are not there.
    """
    name = parse(reference)
    loaded = archive.find(name, cache)
    if loaded is not None:
        return loaded
    stand_in = standins.find(name)
    if stand_in is not None:
        return standins.image(stand_in, name.name, cache)
    raise ImageNotFound(
        f'failed to pull and unpack image "{name.name}": nothing is pulled here, and no image of this name '
        f"for linux/{platform.machine()} is loaded: save it where you have it (docker save {reference} -o image.tar), "
        f"then run: podwire lab load image.tar"
    )

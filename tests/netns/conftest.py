"""Programs that these tests call: the machine's own, else those of the private Debian root in Podwire's cache."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

_PROGRAMS = ("ip", "nft", "nsenter")


@pytest.fixture(scope="session", autouse=True)
def programs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Puts what is missing on PATH, as wrappers around the private root's programs and libraries."""
    missing = [name for name in _PROGRAMS if shutil.which(name) is None and f"PODWIRE_{name.upper()}" not in os.environ]
    cache = Path(os.environ.get("PODWIRE_CACHE", "/var/cache/podwire"))
    folder = tmp_path_factory.mktemp("programs")
    for name in missing:
        found = next((p for p in (cache / "root/usr/sbin" / name, cache / "root/usr/bin" / name) if p.exists()), None)
        if found is None:
            pytest.skip(f"{name} is not installed; `podwire lab prepare` fetches it into {cache}")
        libraries = ":".join(str(path) for path in (cache / "root/usr/lib").glob("*-linux-gnu*"))
        wrapper = folder / name
        wrapper.write_text(f'#!/bin/sh\nexport LD_LIBRARY_PATH={libraries}\nexec {found} "$@"\n')
        wrapper.chmod(0o755)
    before = os.environ["PATH"]
    os.environ["PATH"] = f"{folder}:{before}"
    yield
    os.environ["PATH"] = before

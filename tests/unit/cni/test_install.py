"""Files of the node: whole, with safe modes, in order; and both shims against a socket."""

from __future__ import annotations

import json
from pathlib import Path

from podwire.cni import install
from podwire.cni.install import Places


def places(folder: Path) -> Places:
    return Places(folder / "net.d", folder / "bin", folder / "cni.sock", folder / "spool")


def test_install_and_uninstall(tmp_path: Path) -> None:
    shim = tmp_path / "shim"
    shim.write_bytes(b"#!/bin/true\n")
    where = places(tmp_path)
    changed = install.install(shim, 1450, where)
    assert [path.name for path in changed] == ["podwire.paths", "podwire", "05-podwire.conflist"]
    assert install.install(shim, 1450, where) == []
    modes = {path.name: path.stat().st_mode & 0o7777 for path in changed}
    assert modes == {"podwire.paths": 0o644, "podwire": 0o755, "05-podwire.conflist": 0o644}
    listing = json.loads((where.conf_dir / "05-podwire.conflist").read_text())
    assert (listing["cniVersion"], listing["name"]) == ("1.0.0", "k8s-pod-network")
    assert listing["plugins"][0]["ipam"] == {"type": "podwire-ipam"}
    assert [path.name for path in install.uninstall(where)] == ["05-podwire.conflist", "podwire", "podwire.paths"]
    assert install.uninstall(where) == []


def test_a_symlink_is_replaced_not_followed(tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_text("precious")
    link = tmp_path / "05-podwire.conflist"
    link.symlink_to(victim)
    assert install.write_atomically(link, b"new", 0o644)
    assert victim.read_text() == "precious"
    assert not link.is_symlink()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["05-podwire.conflist", "victim"]

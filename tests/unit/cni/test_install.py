"""Files of the node: whole, with safe modes, in order, and nobody else's touched."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from podwire.cli.cni import cni
from podwire.cni import install, listing
from podwire.cni.install import Places
from podwire.cni.listing import Entry, ListingError

ROLES = ["bandwidth", "host-local", "loopback", "podwire", "podwire-ipam", "portmap"]
FLANNEL = {"name": "cbr0", "cniVersion": "0.3.1", "plugins": [{"type": "flannel"}, {"type": "portmap"}]}


@pytest.fixture
def places(tmp_path: Path) -> Places:
    return Places(tmp_path / "net.d", tmp_path / "bin", tmp_path / "cni.sock", tmp_path / "state" / "cni-spool")


@pytest.fixture
def shim(tmp_path: Path) -> Path:
    path = tmp_path / "shim"
    path.write_bytes(b"#!/bin/true\n")
    return path


@pytest.fixture
def umask() -> Iterator[None]:
    old = os.umask(0o077)
    yield
    os.umask(old)


def files(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


def plugin(text: str) -> dict[str, Any]:
    first: dict[str, Any] = json.loads(text)["plugins"][0]
    return first


@pytest.mark.usefixtures("umask")
def test_install_and_uninstall(places: Places, shim: Path) -> None:
    changed = install.install(shim, 1450, places)
    assert changed[0].name == "podwire.paths"
    assert changed[-1] == places.listing  # what it names is there by then
    assert files(places.bin_dir) == [*ROLES[:4], "podwire-ipam", "podwire.installed", "podwire.paths", "portmap"]
    assert install.install(shim, 1450, places) == []
    modes = {path.name: path.stat().st_mode & 0o7777 for path in changed}
    assert modes.pop("05-podwire.conflist") == 0o644
    assert {name: modes.pop(name) for name in ROLES} == dict.fromkeys(ROLES, 0o755)
    assert modes == {"podwire.paths": 0o644, "podwire.installed": 0o644}
    directories = (places.conf_dir, places.bin_dir, places.spool)
    assert [path.stat().st_mode & 0o7777 for path in directories] == [0o755, 0o755, 0o700]
    gone = install.uninstall(places)
    assert gone[0] == places.listing
    assert files(places.bin_dir) == files(places.conf_dir) == []
    places.spool.rmdir()
    assert install.uninstall(places) == []
    assert not places.spool.exists(), "a node that was cleaned stays clean"


def test_roles_are_one_file(places: Places, shim: Path) -> None:
    install.install(shim, 1450, places)
    assert len({(places.bin_dir / name).stat().st_ino for name in ROLES}) == 1
    shim.write_bytes(b"#!/bin/false\n")
    install.install(shim, 1450, places)
    assert {(places.bin_dir / name).read_bytes() for name in ROLES} == {b"#!/bin/false\n"}
    assert install.install(shim, 1450, places) == []


def test_nothing_is_left_where_links_do_not_work(places: Places, shim: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise PermissionError(1, "no links here")

    monkeypatch.setattr(os, "link", refuse)
    install.install(shim, 1450, places)
    assert {(places.bin_dir / name).read_bytes() for name in ROLES} == {shim.read_bytes()}
    assert not [name for name in files(places.bin_dir) if name.startswith(".")]


def test_other_programs_stay_unless_told_and_come_back(places: Places, shim: Path) -> None:
    places.bin_dir.mkdir()
    (places.bin_dir / "portmap").write_bytes(b"theirs")
    (places.bin_dir / "host-local").symlink_to("/usr/lib/cni/host-local")
    install.install(shim, 1450, places)
    assert (places.bin_dir / "portmap").read_bytes() == b"theirs"
    assert (places.bin_dir / "host-local").is_symlink()
    seen = {row.name: row.state for row in install.look(places)}
    assert seen == dict.fromkeys(["configuration", *ROLES], "podwire") | {"portmap": "other", "host-local": "other"}
    install.install(shim, 1450, places, replace=True)
    assert install.install(shim, 1450, places, replace=True) == []
    assert (places.bin_dir / "portmap").read_bytes() == shim.read_bytes()
    assert not (places.bin_dir / "host-local").is_symlink()
    install.uninstall(places)
    assert files(places.bin_dir) == ["host-local", "portmap"]
    assert (places.bin_dir / "portmap").read_bytes() == b"theirs"
    assert (places.bin_dir / "host-local").readlink() == Path("/usr/lib/cni/host-local")


def test_a_program_that_others_put_over_ours_is_theirs(places: Places, shim: Path) -> None:
    install.install(shim, 1450, places)
    (places.bin_dir / "portmap").unlink()
    (places.bin_dir / "portmap").write_bytes(b"theirs")
    shim.write_bytes(b"newer")
    install.install(shim, 1450, places)
    assert (places.bin_dir / "portmap").read_bytes() == b"theirs"
    assert (places.bin_dir / "bandwidth").read_bytes() == b"newer"
    install.uninstall(places)
    assert files(places.bin_dir) == ["portmap"]


def test_a_broken_manifest_is_none(places: Places, shim: Path) -> None:
    install.install(shim, 1450, places)
    places.manifest.write_text("[")
    install.uninstall(places)
    assert files(places.bin_dir) == []


def test_a_symlink_is_replaced_not_followed(tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_text("precious")
    link = tmp_path / "05-podwire.conflist"
    link.symlink_to(victim)
    assert install.write_atomically(link, b"new", 0o644)
    assert victim.read_text() == "precious"
    assert not link.is_symlink()
    assert files(tmp_path) == ["05-podwire.conflist", "victim"]


def test_conflist() -> None:
    whole = json.loads(listing.conflist(Entry(1450)))
    assert (whole["cniVersion"], whole["name"]) == ("1.0.0", "k8s-pod-network")
    assert whole["cniVersions"] == ["0.3.1", "0.4.0", "1.0.0", "1.1.0"]
    (entry,) = whole["plugins"]
    assert (entry["type"], entry["mtu"], entry["ipam"]) == ("podwire", 1450, {"type": "podwire-ipam"})
    assert {"portMappings", "bandwidth", "ips", "mac", "dns"} < entry["capabilities"].keys()
    assert "wiring" not in entry
    ipam = listing.host_local(("10.244.3.0/24", "fd00:3::/64"))
    bridge = plugin(listing.conflist(Entry(1500, "bridge", ipam, {"bridge": "cbr0"})))
    assert (bridge["wiring"], bridge["bridge"]) == ("bridge", "cbr0")
    assert bridge["ipam"]["ranges"] == [[{"subnet": "10.244.3.0/24"}], [{"subnet": "fd00:3::/64"}]]
    assert bridge["ipam"]["routes"] == [{"dst": "0.0.0.0/0"}, {"dst": "::/0"}]


def test_behind_another_plugin() -> None:
    once = listing.appended(json.dumps(FLANNEL).encode(), "f")
    assert json.loads(once) == {**FLANNEL, "plugins": [{"type": "flannel"}, {"type": "portmap"}, {"type": "podwire"}]}
    assert listing.appended(once.encode(), "f") == once
    single = json.loads(listing.appended(b'{"cniVersion":"0.3.1","name":"n","type":"ptp","x":1}', "f"))
    assert single == {"cniVersion": "0.3.1", "name": "n", "plugins": [{"type": "ptp", "x": 1}, {"type": "podwire"}]}
    assert listing.is_chained(once.encode())
    assert not listing.is_chained(listing.conflist(Entry(1450)).encode())
    assert not listing.is_chained(b"[1]")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (b"{", "f is not JSON"),
        (b"[" * 100_000, "f is not JSON"),
        (b"[]", "it has no name"),
        (b'{"name":"n","plugins":[5]}', "no type"),
        (b'{"name":"n","plugins":{}}', "no type"),
        (b'{"name":"n"}', "no type"),
        (b'{"name":"n","plugins":[]}', "no plugin that Podwire could stand behind"),
        (b'{"name":"n","plugins":[{"type":"podwire"}]}', "no plugin that Podwire could stand behind"),
    ],
)
def test_lists_that_nothing_can_be_appended_to(text: bytes, words: str) -> None:
    with pytest.raises(ListingError, match=words):
        listing.appended(text, "f")


def test_the_agent_leaves_a_chained_list_alone(places: Places, shim: Path) -> None:
    places.conf_dir.mkdir()
    places.listing.write_text(listing.appended(json.dumps(FLANNEL).encode(), "f"))
    install.install(shim, 1450, places)
    assert plugin(places.listing.read_text()) == {"type": "flannel"}


@pytest.fixture
def run(tmp_path: Path, shim: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The command with its directories in a folder."""
    monkeypatch.setattr("podwire.cli.cni._shim", lambda cache: shim.read_bytes())

    def invoke(verb: str, *arguments: str) -> Result:
        folders = [f"--{name}-dir={tmp_path / name}" for name in ("conf", "bin", "state")]
        return CliRunner().invoke(cni, [verb, *folders, *arguments])

    return invoke


def test_a_dry_run_does_nothing(run: Any, tmp_path: Path) -> None:
    done = run("install", "--dry-run")
    assert (done.exit_code, f"would write {tmp_path}/bin/podwire (mode 0755)" in done.output) == (0, True)
    assert files(tmp_path) == ["shim"]
    run("install")
    assert f"would remove {tmp_path}/bin/podwire" in run("uninstall", "--dry-run").output
    assert "05-podwire.conflist" in files(tmp_path / "conf")


def test_the_command_says_what_is_in_the_way(run: Any, tmp_path: Path) -> None:
    for folder, name in (("conf", "00-first.conf"), ("bin", "portmap")):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / name).write_text("theirs")
    done = run("install")
    assert done.exit_code == 0
    assert f"left alone: {tmp_path}/bin/portmap is not Podwire's" in done.output
    assert f"runtimes take {tmp_path}/conf/00-first.conf first" in done.output
    rows = {row["name"]: row for row in json.loads(run("list", "-o", "json").stdout)}
    assert rows["configuration"]["note"] == "not in force: runtimes take 00-first.conf"
    assert rows["portmap"]["state"] == "other"


def test_shapes_by_command(run: Any, tmp_path: Path) -> None:
    target = tmp_path / "conf" / "05-podwire.conflist"
    assert run("install", "--wiring", "bridge", "--subnet", "10.1.0.0/24", "--mtu", "1400").exit_code == 0
    entry = plugin(target.read_text())
    assert (entry["wiring"], entry["mtu"], entry["ipam"]["type"]) == ("bridge", 1400, "host-local")
    (tmp_path / "conf" / "10-flannel.conflist").write_text(json.dumps(FLANNEL))
    assert run("install", "--chained").exit_code == 0
    assert listing.is_chained(target.read_bytes())
    assert run("install").exit_code == 0
    assert not listing.is_chained(target.read_bytes())
    assert run("install", "--chained", str(tmp_path / "none")).exit_code == 1
    assert run("install", "--chained", "--wiring", "bridge").exit_code == 2
    assert run("install", "--subnet", "10.1.0.1/24").exit_code == 2


def test_executables_stay_while_attachments_need_them(run: Any, tmp_path: Path) -> None:
    run("install")
    records = tmp_path / "state" / "attachments"
    records.mkdir()
    (records / "c1.eth0.json").write_text('{"state":"ready"}')
    (records / "c2.eth0.json").write_text('{"state":"deleted"}')
    done = run("uninstall")
    assert done.exit_code == 1
    assert "1 attachments are left" in done.output
    assert (files(tmp_path / "conf"), "podwire" in files(tmp_path / "bin")) == ([], True)
    assert run("list").exit_code == 1
    assert run("uninstall", "--wait", "1").exit_code == 1
    (records / "c1.eth0.json").unlink()
    assert run("uninstall").exit_code == 0
    assert files(tmp_path / "bin") == []
    run("install")
    (records / "c1.eth0.json").write_text("{")
    assert run("uninstall", "--force").exit_code == 0
    assert files(tmp_path / "bin") == []


OF_FLANNEL = (
    '{"name": "cbr0", "cniVersion": "1.0.0", "plugins": [{"type": "flannel", "delegate": {"isDefaultGateway": true}},'
    ' {"type": "portmap", "capabilities": {"portMappings": true}}]}'
)
OF_BRIDGE = '{"cniVersion": "1.0.0", "name": "pods", "type": "bridge", "ipam": {"type": "host-local"}}'
OF_KINDNET = '{"name": "kindnet", "cniVersion": "0.3.1", "plugins": [{"type": "ptp", "ipam": {"type": "host-local"}}]}'
OF_MULTUS = '{"cniVersion": "1.0.0", "name": "multus", "type": "multus-shim"}'


def test_configurations_of_others_make_way_and_come_back(places: Places, shim: Path) -> None:
    others = {
        "10-flannel.conflist": OF_FLANNEL,
        "10-bridge.conf": OF_BRIDGE,
        "04-kindnet.conflist": OF_KINDNET,
        "99-broken.json": "{",
    }
    places.conf_dir.mkdir(parents=True)
    for name, text in {**others, "00-multus.conf": OF_MULTUS, "notes.txt": "mine"}.items():
        (places.conf_dir / name).write_text(text)
    assert install.set_aside(places) == [], "not before there is another that serves"
    install.install(shim, 1450, places)
    assert [path.name for path in install.set_aside(places)] == sorted(others)
    assert install.set_aside(places) == [] and install.rivals(places) == []
    aside = sorted(f"{name}.before-podwire" for name in others)
    assert files(places.conf_dir) == sorted([*aside, "00-multus.conf", "05-podwire.conflist", "notes.txt"])
    (places.conf_dir / "10-flannel.conflist").write_text("{}")
    assert [path.name for path in install.rivals(places)] == ["10-flannel.conflist"], "its agent is still there"
    (places.conf_dir / "10-flannel.conflist").unlink()
    install.uninstall(places)
    assert files(places.conf_dir) == sorted([*others, "00-multus.conf", "notes.txt"])
    assert (places.conf_dir / "10-flannel.conflist").read_text() == OF_FLANNEL


def test_what_came_back_by_itself_is_newer_than_what_made_way(places: Places, shim: Path) -> None:
    install.install(shim, 1450, places)
    (places.conf_dir / "10-bridge.conf").write_text(OF_BRIDGE)
    install.set_aside(places)
    (places.conf_dir / "10-bridge.conf").write_text("{}")
    install.uninstall(places)
    assert files(places.conf_dir) == ["10-bridge.conf"]
    assert (places.conf_dir / "10-bridge.conf").read_text() == "{}"


def test_where_podwire_stands_behind_another_nothing_makes_way(places: Places, shim: Path) -> None:
    from podwire.cni import listing

    places.conf_dir.mkdir(parents=True)
    (places.conf_dir / "10-bridge.conf").write_text(OF_BRIDGE)
    places.listing.write_text(listing.appended(OF_BRIDGE.encode(), "bridge"))
    assert install.set_aside(places) == []


@pytest.mark.parametrize(
    ("text", "types"),
    [
        (OF_FLANNEL, ["flannel", "portmap"]),
        (OF_BRIDGE, ["bridge"]),
        ("{", []),
        ("[]", []),
        ('{"plugins": 3}', []),
        ("7", []),
    ],
)
def test_types(text: str, types: list[str]) -> None:
    from podwire.cni import listing

    assert listing.types(text.encode()) == types

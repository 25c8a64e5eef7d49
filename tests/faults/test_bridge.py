"""Pods on a bridge while the agent is killed or fails at every step, and loopback beside them: a retry works, nothing
is left, and nothing is there twice, host-local's files included."""

from __future__ import annotations

import signal
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from podwire.kernel.nft import program
from tests.faults.conftest import Site
from tests.netns.agent.conftest import until

ADD = ("recorded", "claimed", "host", "created", "pod", "extras", "admitted", "ready")
DEL = ("doomed", "deleted", "released")


@pytest.fixture
def shape(request: pytest.FixtureRequest, tmp_path: Path) -> dict[str, Any]:
    kind = getattr(request, "param", "host-local")
    ipam: dict[str, Any] = {"type": kind}
    if kind == "host-local":
        ipam |= {"ranges": [[{"subnet": "10.77.1.0/24"}]], "dataDir": str(tmp_path / "networks")}
    return {"wiring": "bridge", "bridge": "cbr0", "isDefaultGateway": True, "ipMasq": True, "ipam": ipam}


def held(site: Site, shape: dict[str, Any]) -> list[str]:
    """Addresses that are taken, in files and in blocks."""
    files = Path(shape["ipam"].get("dataDir", "/nonexistent"), "k8s-pod-network")
    found = [path.name for path in files.glob("1*")] if files.exists() else []
    return sorted(found + [address for several in site.held().values() for address in several])


def traces(site: Site, shape: dict[str, Any]) -> list[str]:
    """What pods on the bridge leave, beside the addresses that `held` tells."""
    rules = site.node.space.run(program(), "list", "ruleset")
    rows = site.traces()
    elements = [line.strip() for line in rules.splitlines() if "elements = { 10.77.1" in line and "/" not in line]
    near = [line for line in site.node.space.run("ip", "neigh").splitlines() if "dev cbr0" in line and "PERM" in line]
    routes = [line for line in site.node.space.run("ip", "route").splitlines() if "dev cbr0 scope link" in line]
    routes = [line for line in routes if "proto kernel" not in line]
    return [*rows["links"], *rows["elements"], *rows["records"], *elements, *near, *routes]


def clean(site: Site, shape: dict[str, Any]) -> None:
    def left() -> list[str]:
        return traces(site, shape) + held(site, shape)

    until("nothing left", lambda: not left(), seconds=20)


def faulty(site: Site, monkeypatch: pytest.MonkeyPatch, fault: str) -> None:
    site.node.stop()
    monkeypatch.setenv("PODWIRE_FAULT", fault)
    site.node.start()


def healthy(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PODWIRE_FAULT")
    site.node.stop(signal.SIGKILL)
    site.node.start()


@pytest.mark.parametrize(
    ("point", "manner", "shape"),
    [(point, manner, "host-local") for point in ADD for manner in ("kill", "raise")]
    + [(point, "kill", "podwire-ipam") for point in ("claimed", "admitted")],
    indirect=["shape"],
)
def test_fault_in_add(
    site: Site, shape: dict[str, Any], monkeypatch: pytest.MonkeyPatch, point: str, manner: str
) -> None:
    faulty(site, monkeypatch, f"{point}:{manner}")
    space = site.space()
    code, answer = site.call("ADD", "one", space.path, **shape)
    assert (code, answer["code"]) == (1, 11 if manner == "kill" else 5), answer
    healthy(site, monkeypatch)
    again = site.add("one", space, **shape)
    site.answers(space, again)
    until("one address", lambda: held(site, shape) == [again["ips"][0]["address"].partition("/")[0]])
    assert [name for name in site.traces()["links"] if name.startswith("pw")] == []
    site.delete("one", space, prevResult=again, **shape)
    clean(site, shape)


@pytest.mark.parametrize("point", DEL)
def test_fault_in_del(site: Site, shape: dict[str, Any], monkeypatch: pytest.MonkeyPatch, point: str) -> None:
    faulty(site, monkeypatch, f"{point}:kill")
    space = site.space()
    answer = site.add("one", space, **shape)
    site.delete("one", space, prevResult=answer, **shape)  # answered, or spooled
    healthy(site, monkeypatch)
    site.delete("one", space, prevResult=answer, **shape)
    clean(site, shape)
    site.answers(space, site.add("one", space, **shape))


@pytest.mark.parametrize(("point", "manner"), [("recorded", "raise"), ("created", "kill"), ("admitted", "raise")])
def test_a_fault_without_a_retry_leaves_nothing(
    site: Site, shape: dict[str, Any], monkeypatch: pytest.MonkeyPatch, point: str, manner: str
) -> None:
    faulty(site, monkeypatch, f"{point}:{manner}")
    space = site.space()
    assert site.call("ADD", "one", space.path, **shape)[0] == 1
    healthy(site, monkeypatch)
    clean(site, shape)
    assert space.run("ip", "-o", "link").count("\n") == 1


def test_loopback_beside_the_network(shared: Site) -> None:
    """Runtimes run both at the same time for one sandbox."""
    program = shared.node.bin_dir / "loopback"
    program.write_bytes((shared.node.bin_dir / "podwire").read_bytes())
    program.chmod(0o755)
    paths = shared.node.bin_dir / "podwire.paths"
    program.with_name("loopback.paths").write_bytes(paths.read_bytes())
    lo = {"CNI_IFNAME": "lo"}
    with ThreadPoolExecutor(8) as pool:
        for number in range(50):
            space, name = shared.space(), f"both-{number}"
            roles = [("podwire", {}), ("loopback", lo)]
            made = [pool.submit(shared.call, "ADD", name, space.path, role=role, env=env) for role, env in roles]
            results = [one.result() for one in made]
            assert [code for code, _ in results] == [0, 0], results
            shared.answers(space, results[0][1])
            assert "UP" in space.run("ip", "-o", "link", "show", "lo")
            gone = [pool.submit(shared.call, "DEL", name, space.path, role=role, env=env) for role, env in roles]
            assert [one.result() for one in gone] == [(0, {}), (0, {})]
    shared.clean()

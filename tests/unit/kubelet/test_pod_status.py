"""Phases, conditions, back-off, probe results, OCI configuration, log lines: tables."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from podwire.kubelet import oci, probes, status, volumes
from podwire.kubelet.backoff import Backoff, words
from podwire.kubelet.logs import LINE_LIMIT, LineSplitter, LogFile
from podwire.kubelet.status import ContainerView, PodView

RUNNING = {"running": {"startedAt": "t"}}
WAITING = {"waiting": {"reason": "ContainerCreating"}}


def ended(code: int) -> dict[str, Any]:
    return {"terminated": {"exitCode": code}}


def view(*states: dict[str, Any], init: list[dict[str, Any]] | None = None, ready: bool = True) -> PodView:
    def one(index: int, state: dict[str, Any]) -> ContainerView:
        return ContainerView(f"c{index}", "i", state, ready=ready and "running" in state, started="running" in state)

    containers = [one(index, state) for index, state in enumerate(states)]
    return PodView("h", "t", "now", ("10.0.0.1",), True, containers, [one(9, state) for state in init or []])


@pytest.mark.parametrize(
    ("policy", "seen", "expected"),
    [
        ("Always", view(RUNNING), "Running"),
        ("Always", view(WAITING), "Pending"),
        ("Always", view(RUNNING, WAITING), "Pending"),
        ("Always", view(ended(0)), "Running"),
        ("Never", view(ended(0)), "Succeeded"),
        ("Never", view(ended(0), ended(1)), "Failed"),
        ("OnFailure", view(ended(1)), "Running"),
        ("OnFailure", view(ended(0)), "Succeeded"),
        ("Always", view(WAITING, init=[RUNNING]), "Pending"),
        ("Never", view(WAITING, init=[ended(1)]), "Failed"),
        ("Always", view(RUNNING, init=[ended(0)]), "Running"),
    ],
)
def test_phase(policy: str, seen: PodView, expected: str) -> None:
    assert status.phase(policy, seen) == expected


def conditions(found: dict[str, Any]) -> dict[str, tuple[str, str]]:
    return {one["type"]: (one["status"], one.get("message", "")) for one in found["conditions"]}


def test_conditions_and_gates() -> None:
    pod = {"spec": {"readinessGates": [{"conditionType": "x/y"}]}, "status": {}}
    found = conditions(status.build(pod, view(RUNNING)))
    assert found["ContainersReady"] == ("True", "")
    words = 'corresponding condition of pod readiness gate "x/y" does not exist.'
    assert found["Ready"] == ("False", words)
    found = conditions(status.build({"spec": {}}, view(RUNNING, ready=False)))
    assert found["Ready"] == ("False", "containers with unready status: [c0]")


def test_nothing_is_written_twice() -> None:
    built = status.build({"spec": {}}, view(RUNNING))
    later = status.build({"spec": {}, "status": built}, view(RUNNING))
    assert status.patch(later, built) == {}
    changed = status.patch(status.build({"spec": {}, "status": built}, view(ended(0))), built)
    assert set(changed) == {"conditions", "containerStatuses"}
    moved = {**built, "podIPs": [{"ip": "10.0.0.2"}]}
    assert status.patch(moved, built) == {"podIPs": [{"$patch": "replace"}, {"ip": "10.0.0.2"}]}


@pytest.mark.parametrize(
    ("resources", "expected"),
    [
        ({}, "BestEffort"),
        ({"limits": {"cpu": "1", "memory": "1Gi"}}, "Guaranteed"),
        ({"limits": {"cpu": "1", "memory": "1Gi"}, "requests": {"cpu": "500m"}}, "Burstable"),
        ({"requests": {"cpu": "500m"}}, "Burstable"),
    ],
)
def test_quality_of_service(resources: dict[str, Any], expected: str) -> None:
    assert status.qos_class({"containers": [{"resources": resources}]}) == expected


def test_backoff_doubles_and_resets() -> None:
    backoff = Backoff()
    delays = [backoff.fail("a", float(at)) for at in (0, 10, 30, 70, 150, 310, 620)]
    assert delays == [10, 20, 40, 80, 160, 300, 300]
    assert backoff.remaining("a", 720.0) == 200
    assert backoff.fail("a", 1300.0) == 10
    assert words(10) == "10s"
    assert words(80) == "1m20s"


@pytest.mark.parametrize(
    ("outcomes", "initial", "expected"),
    [
        ([False, False, True], True, True),
        ([False, False, False], True, False),
        ([True], False, True),
        ([True, False, True], False, True),
    ],
)
def test_probe_thresholds(outcomes: list[bool], initial: bool, expected: bool) -> None:
    counter = probes.Counter({"failureThreshold": 3}, initial)
    for outcome in outcomes:
        counter.add(outcome)
    assert counter.result is expected


@pytest.mark.parametrize(
    ("line", "ok"), [(b"200 OK", True), (b"302 Found", True), (b"404 No", False), (b"500 X", False)]
)
async def test_http_probe(line: bytes, ok: bool) -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 " + line + b"\r\nContent-Length: 0\r\n\r\n")
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]

    async def run(argv: list[str], timeout: float) -> tuple[int, bytes]:
        return 0, b""

    target = probes.Target("127.0.0.1", {"ports": [{"name": "web", "containerPort": port}]}, run)
    outcome = await probes.check({"httpGet": {"port": "web", "path": "/x"}}, target)
    assert outcome.ok is ok, outcome
    if not ok:
        assert outcome.message == f"HTTP probe failed with statuscode: {line[:3].decode()}"
    server.close()
    await server.wait_closed()
    closed = await probes.check({"tcpSocket": {"port": port}}, target)
    assert closed.message == f"dial tcp 127.0.0.1:{port}: connect: connection refused" or not closed.ok


@pytest.mark.parametrize(
    ("security", "inside", "outside"),
    [
        ({}, {"CAP_NET_RAW", "CAP_CHOWN"}, {"CAP_NET_ADMIN"}),
        ({"capabilities": {"add": ["NET_ADMIN"]}}, {"CAP_NET_ADMIN", "CAP_CHOWN"}, set()),
        ({"capabilities": {"drop": ["ALL"], "add": ["NET_RAW"]}}, {"CAP_NET_RAW"}, {"CAP_CHOWN"}),
        ({"capabilities": {"drop": ["NET_RAW"]}}, {"CAP_CHOWN"}, {"CAP_NET_RAW"}),
        ({"privileged": True}, {"CAP_SYS_ADMIN"}, set()),
    ],
)
def test_capabilities(security: dict[str, Any], inside: set[str], outside: set[str]) -> None:
    found = set(oci.capabilities(security))
    assert inside <= found
    assert not outside & found


def test_oci_config() -> None:
    launch = oci.Launch(
        rootfs="/r",
        argv=("a",),
        env=("A=1",),
        cwd="",
        user=oci.User(7, 8, (9,)),
        hostname="h",
        namespaces={"mount": "", "network": "/run/netns/x"},
        mounts=[oci.Mount("/s/deep", "/data/deep"), oci.Mount("/s", "/data", True)],
        cgroup="/p/u/c",
        security={"readOnlyRootFilesystem": True, "allowPrivilegeEscalation": False},
        resources={"limits": {"cpu": "500m", "memory": "64Mi"}},
    )
    found = oci.config(launch)
    assert found["linux"]["namespaces"] == [{"type": "mount"}, {"type": "network", "path": "/run/netns/x"}]
    assert found["linux"]["resources"]["cpu"] == {"shares": 512, "period": 100000, "quota": 50000}
    assert found["linux"]["resources"]["memory"] == {"limit": 64 << 20}
    assert found["root"] == {"path": "/r", "readonly": True}
    assert found["process"]["user"] == {"uid": 7, "gid": 8, "additionalGids": [9]}
    assert found["process"]["noNewPrivileges"] is True
    assert "effective" not in found["process"]["capabilities"]
    own = [one["destination"] for one in found["mounts"] if one["type"] == "bind"]
    assert own == ["/data", "/data/deep"]
    assert "/proc/kcore" in found["linux"]["maskedPaths"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", oci.User(0, 0)),
        ("app", oci.User(100, 101, (50,))),
        ("100", oci.User(100, 101, (50,))),
        ("555", oci.User(555, 0)),
        ("app:extra", oci.User(100, 50)),
        ("5:6", oci.User(5, 6)),
    ],
)
def test_users(text: str, expected: oci.User) -> None:
    passwd, group = "root:x:0:0:::\napp:x:100:101:::\n", "root:x:0:\nextra:x:50:app\n"
    assert oci.find_user(text, passwd, group) == expected
    with pytest.raises(oci.SpecError):
        oci.find_user("nobody", passwd, group)


@given(st.lists(st.binary(max_size=50)))
def test_log_lines_lose_nothing(chunks: list[bytes]) -> None:
    splitter = LineSplitter()
    lines = [line for chunk in chunks for line in splitter.feed(chunk)] + splitter.flush()
    text = b"".join(line + (b"\n" if tag == "F" else b"") for tag, line in lines)
    whole = b"".join(chunks)
    assert text == whole + (b"\n" if whole and not whole.endswith(b"\n") else b"")


def test_long_lines_are_partial(tmp_path: Path) -> None:
    file = LogFile(tmp_path / "a" / "0.log")
    file.write("stdout", b"x" * (LINE_LIMIT + 5) + b"\nshort\n")
    file.close()
    lines = (tmp_path / "a" / "0.log").read_text().splitlines()
    assert [line.split(" ")[1:3] for line in lines] == [["stdout", "P"], ["stdout", "F"], ["stdout", "F"]]


def test_object_volume_is_replaced_in_one_step(tmp_path: Path) -> None:
    first = {"a": volumes.Entry(b"1", 0o644), "d/b": volumes.Entry(b"2", 0o400)}
    volumes.write_files(tmp_path / "v", first)
    before = (tmp_path / "v" / "..data").readlink()
    volumes.write_files(tmp_path / "v", first)
    assert (tmp_path / "v" / "..data").readlink() == before
    assert (tmp_path / "v" / "d" / "b").read_bytes() == b"2"
    volumes.write_files(tmp_path / "v", {"c": volumes.Entry(b"3", 0o644)})
    assert sorted(path.name for path in (tmp_path / "v").iterdir() if not path.name.startswith("..")) == ["c"]
    for bad in ("/etc/passwd", "../x", "a/../../x"):
        with pytest.raises(volumes.VolumeError):
            volumes.write_files(tmp_path / "v", {bad: volumes.Entry(b"", 0o644)})
    (tmp_path / "v" / "out").symlink_to("/")
    with pytest.raises(volumes.VolumeError):
        volumes.inside(tmp_path / "v", "out/etc")


def test_a_condition_loses_its_reason_when_it_has_none_any_more() -> None:
    old = {"type": "Ready", "status": "False", "reason": "ContainersNotReady", "message": "why"}
    change = status.patch({"conditions": [{"type": "Ready", "status": "True"}]}, {"conditions": [old]})
    assert change["conditions"] == [{"type": "Ready", "status": "True", "reason": None, "message": None}]
    assert not status.patch({"conditions": [old]}, {"conditions": [old]})

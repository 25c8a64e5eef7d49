"""Our host-local store and the reference's program, turn by turn and all at once, on one directory."""

from __future__ import annotations

import json
import os
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from podwire.ipam import hostranges
from podwire.ipam.hostlocal import Store
from podwire.ipam.hostranges import HostLocalError

CACHE = Path(os.environ.get("PODWIRE_CACHE", "/var/cache/podwire"))
IPAM = {"type": "host-local", "ranges": [[{"subnet": "10.1.2.0/26"}], [{"subnet": "fd00::/120"}]]}


@pytest.fixture(scope="module", params=["debian/usr/lib/cni", "bin"], ids=["debian", "current"])
def program(request: pytest.FixtureRequest) -> Path:
    """Debian's host-local and that of the current release, as `tools/setup conformance` puts them into the cache."""
    path = CACHE / "conformance" / str(request.param) / "host-local"
    assert path.exists(), f"{path} is missing: `tools/setup conformance` puts it there"
    return path


def reference(program: Path, command: str, name: str, folder: Path) -> tuple[int, dict[str, Any]]:
    """Exit code and answer of the reference's plugin."""
    env = {
        "CNI_COMMAND": command,
        "CNI_CONTAINERID": name,
        "CNI_IFNAME": "eth0",
        "CNI_NETNS": "/proc/self/ns/net",
        "CNI_PATH": "/nowhere",
        "CNI_NETNS_OVERRIDE": "1",
    }
    config = {"cniVersion": "1.0.0", "name": "net", "type": "x", "ipam": {**IPAM, "dataDir": str(folder)}}
    done = subprocess.run(
        [program], env=env, input=json.dumps(config).encode(), capture_output=True, timeout=60, check=False
    )
    return done.returncode, json.loads(done.stdout) if done.stdout.strip() else {}


def asked(program: Path, name: str, folder: Path) -> list[str]:
    code, answer = reference(program, "ADD", name, folder)
    assert code == 0, answer
    return [ip["address"] for ip in answer["ips"]]


def ours(store: Store, name: str) -> list[str]:
    return [given.cidr for given in store.assign((name, "eth0"), SETS)]


SETS = hostranges.load({"ipam": IPAM}, {}, {}).sets


def test_turn_by_turn(tmp_path: Path, program: Path) -> None:
    store = Store(str(tmp_path), "net")
    assert asked(program, "a", tmp_path) == ["10.1.2.2/26", "fd00::2/120"]
    assert ours(store, "b") == ["10.1.2.3/26", "fd00::3/120"]
    assert asked(program, "c", tmp_path) == ["10.1.2.4/26", "fd00::4/120"]
    # each releases what the other reserved, and goes on behind it
    assert store.release(("a", "eth0")) == ["10.1.2.2", "fd00::2"]
    assert reference(program, "DEL", "b", tmp_path) == (0, {})
    assert [one.owner[0] for one in store.reservations()] == ["c", "c"]
    assert ours(store, "d") == ["10.1.2.5/26", "fd00::5/120"]
    assert reference(program, "CHECK", "d", tmp_path)[0] == 0
    assert reference(program, "CHECK", "b", tmp_path)[0] == 1


def test_the_same_words_when_nothing_is_left(tmp_path: Path, program: Path) -> None:
    store = Store(str(tmp_path), "net")
    for number in range(61):
        ours(store, f"c{number}")
    code, answer = reference(program, "ADD", "late", tmp_path)
    with pytest.raises(HostLocalError) as error:
        ours(store, "late")
    assert code == 1
    assert answer["msg"] == str(error.value)
    assert "no IP addresses available in range set: 10.1.2.1-10.1.2.62" in answer["msg"]


def test_all_at_once(tmp_path: Path, program: Path) -> None:
    """Two of ours and the reference take and give back without pause: nobody ever gets what somebody holds."""
    stores = [Store(str(tmp_path), "net") for _ in range(2)]
    holders: dict[str, str] = {}

    def work(number: int) -> int:
        taken = 0
        for turn in range(12):
            name = f"c{number}-{turn}"
            found = asked(program, name, tmp_path) if number % 2 else ours(stores[number % 4 // 2], name)
            for address in found:
                assert holders.setdefault(address, name) == name, f"{address} is of {holders[address]} and of {name}"
            taken += len(found)
            if turn % 3:
                for address in found:
                    del holders[address]
                if (number + turn) % 2:
                    stores[0].release((name, "eth0"))
                else:
                    assert reference(program, "DEL", name, tmp_path) == (0, {})
        return taken

    with ThreadPoolExecutor(6) as pool:
        assert list(pool.map(work, range(6))) == [24] * 6
    assert {one.address: one.owner[0] for one in stores[0].reservations()} == {
        address.partition("/")[0]: name for address, name in holders.items()
    }

"""`python -m bench.cni [--calls N] [--long] [--json FILE]`: ADD and DEL against the reference's bridge + host-local.

Ours and both builds of the reference (Debian's, and the current release) take turns in one run; what is reported as the
peer is the faster build. A call is what a runtime does: a process started, its configuration on stdin, its result read
to the end, its exit waited for. Everything happens in network namespaces of the bench's own; the API is a fake in a
process of its own that answers after one millisecond (20 for the slow one).
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import shutil
import statistics
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from bench import cnisite
from bench.cnicost import costs
from bench.cnisite import CACHE, DEBIAN, PodSpaces, Site, Step, Variant
from bench.record import record
from podwire.cni import build
from podwire.kernel import netlink
from podwire.lab import syscalls
from tests.netns.agent.conftest import Namespace

CALLS = 100
IN_FLIGHT, BLOCK, BLOCKS = 8, 48, 3
BURST = 200
OURS = {"cniVersion": "1.0.0", "name": "k8s-pod-network", "type": "podwire"}

Times = dict[str, list[float]]


def peers(scratch: Path) -> list[Variant]:
    """Both builds of the reference, each on a node of its own."""
    found = []
    for name, folder in (("debian", DEBIAN / "usr/lib/cni"), ("current", CACHE / "conformance/bin")):
        ipam = {"type": "host-local", "subnet": "10.99.0.0/16", "dataDir": str(scratch / name)}
        config = {"cniVersion": "1.0.0", "name": "bench", "type": "bridge", "bridge": "cbr0", "isGateway": True}
        found.append(Variant(name, Namespace(), [Step(folder / "bridge", {**config, "ipam": ipam})], str(folder)))
    return found


def with_ports(peer: Variant) -> Variant:
    """The same with its portmap behind, which runs iptables."""
    folder = Path(peer.path)
    behind = Step(folder / "portmap", {"cniVersion": "1.0.0", "name": "bench", "type": "portmap"})
    libraries = next((DEBIAN / "usr/lib").glob("*-linux-gnu"))
    found = shutil.which("iptables") is not None
    own = {
        "PATH": f"{DEBIAN}/usr/sbin:/usr/sbin:/usr/bin",
        "LD_LIBRARY_PATH": str(libraries),
        "XTABLES_LIBDIR": str(libraries / "xtables"),
    }
    return replace(peer, name=f"{peer.name}-ports", steps=[*peer.steps, behind], environment={} if found else own)


def ours(site: Site) -> Variant:
    return Variant("ours", site.node.space, [Step(site.node.bin_dir / "podwire", OURS)], str(site.node.bin_dir))


def python_shim(site: Site, scratch: Path) -> Variant:
    """The same agent by the fall-back shim."""
    folder = scratch / "python"
    folder.mkdir()
    program = folder / "podwire"
    program.write_text(build.fallback())
    program.chmod(0o755)
    shutil.copy2(site.node.bin_dir / "podwire.paths", folder / "podwire.paths")
    return Variant("python", site.node.space, [Step(program, OURS)], str(folder))


def ports(number: int) -> dict[str, Any]:
    mapping = {"hostPort": 10_000 + number % 50_000, "containerPort": 80, "protocol": "tcp"}
    return {"runtimeConfig": {"portMappings": [mapping]}}


def one_by_one(variants: list[Variant], calls: int) -> dict[str, Times]:
    """ADD and DEL times by variant; variants in random order in each round, all of them warm."""
    times: dict[str, Times] = {variant.name: {"ADD": [], "DEL": []} for variant in variants}
    for number in range(-5, calls):
        spaces = PodSpaces()
        order = random.sample(variants, len(variants))
        for variant, path in zip(order, spaces.take(len(order)), strict=True):
            more = ports(number + 5) if variant.name.endswith("ports") else {}
            added, deleted = cnisite.pair(variant, number + 1_000, path, more)
            if number >= 0:
                times[variant.name]["ADD"].append(added)
                times[variant.name]["DEL"].append(deleted)
        spaces.drop()
    return times


def faster(times: dict[str, Times], names: list[str], verb: str) -> str:
    return min(names, key=lambda name: statistics.median(times[name][verb]))


NAMES = {"debian": "Debian's bridge + host-local 1.1.1", "current": "bridge + host-local 1.9.1"}


def single(times: dict[str, Times], calls: int) -> list[dict[str, Any]]:
    """The records of calls one at a time."""
    rows = []
    for verb in ("ADD", "DEL"):
        for name, variant, others in (
            ("", "ours", ["debian", "current"]),
            ("_python_shim", "python", ["debian", "current"]),
            ("_portmap", "ours-ports", ["debian-ports", "current-ports"]),
        ):
            peer = faster(times, others, verb)
            label = NAMES[peer.removesuffix("-ports")] + (" + portmap" if peer.endswith("-ports") else "")
            row = record(
                f"cni_{verb.lower()}{name}",
                "ms",
                times[variant][verb],
                peer=times[peer][verb],
                peer_name=label,
                n=calls,
            )
            rows.append(row)
    return rows


def crowds(variants: list[Variant]) -> list[dict[str, Any]]:
    """Eight in flight, and a burst."""
    rates: dict[str, Times] = {v.name: {"add_8": [], "del_8": [], "burst": [], "failures": []} for v in variants}
    for turn in range(BLOCKS):
        for variant in random.sample(variants, len(variants)):
            spaces = PodSpaces()
            added, deleted = cnisite.in_flight(variant, 10_000 * (turn + 1), spaces.take(BLOCK), IN_FLIGHT)
            spaces.drop()
            rate, failures = cnisite.burst(variant, 100_000 * (turn + 1), spaces.take(BURST))
            spaces.drop()
            for key, value in zip(rates[variant.name], (added, deleted, rate, float(failures)), strict=True):
                rates[variant.name][key].append(value)
    rows = []
    for key, name, n in (("add_8", "cni_add_8_in_flight", BLOCK), ("del_8", "cni_del_8_in_flight", BLOCK)):
        rows.append(_crowd(rates, key, name, n))
    rows.append(_crowd(rates, "burst", "cni_burst", BURST))
    failed = {name: [sum(values["failures"])] for name, values in rates.items()}
    rows.append(record("cni_burst_failures", "calls", failed["ours"], n=BURST * BLOCKS))
    return rows


def _crowd(rates: dict[str, Times], key: str, name: str, n: int) -> dict[str, Any]:
    peer = max(NAMES, key=lambda build: statistics.median(rates[build][key]))
    return record(
        name, "calls/s", rates["ours"][key], peer=rates[peer][key], peer_name=NAMES[peer], n=n, better="higher"
    )


def resident(pid: int) -> float:
    """Proportional set size of a process, MB."""
    rows = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return next(int(row.split()[1]) for row in rows if row.startswith("Pss:")) / 1024


def memory(site: Site) -> list[dict[str, Any]]:
    """The agent after 1,000 and after 10,000 pairs of ADD and DEL with 8 in flight."""
    variant, sizes = ours(site), []
    spaces = PodSpaces()
    paths = spaces.take(100)
    assert site.node.agent is not None
    for hundred in range(1, 101):
        cnisite.in_flight(variant, hundred * 1_000_000, paths, IN_FLIGHT)
        if hundred in (10, 100):
            sizes.append(resident(_agent_pid(site)))
    spaces.drop()
    return [record("cni_memory_10000_pairs", "MB", [sizes[1]], peer=[sizes[0]], peer_name="after 1,000 pairs", n=9_000)]


def _agent_pid(site: Site) -> int:
    assert site.node.agent is not None
    return site.node.agent.pid  # nsenter has become the agent: it enters no pid namespace, so it does not fork


@contextlib.contextmanager
def scratch() -> Iterator[Path]:
    """A folder in memory, where neither side waits for a disk."""
    with tempfile.TemporaryDirectory(prefix="podwire-bench-") as name:
        syscalls.mount("tmpfs", name, "tmpfs")
        try:
            yield Path(name)
        finally:
            syscalls.unmount(name, syscalls.MNT_DETACH)


@contextlib.contextmanager
def nft(folder: Path) -> Iterator[None]:
    """The agents' nft where the machine has none: Debian's from the cache, with its libraries."""
    if shutil.which("nft") is not None or "PODWIRE_NFT" in os.environ:
        yield
        return
    root = CACHE / "root/usr"
    wrapper = folder / "nft"
    libraries = next((root / "lib").glob("*-linux-gnu"))
    wrapper.write_text(f'#!/bin/sh\nLD_LIBRARY_PATH={libraries} exec {root}/sbin/nft "$@"\n')
    wrapper.chmod(0o755)
    os.environ["PODWIRE_NFT"] = str(wrapper)
    try:
        yield
    finally:
        del os.environ["PODWIRE_NFT"]


def measure(runs: int = 10, *, calls: int = 0, long: bool = False) -> list[dict[str, Any]]:
    """All records; `calls` (100 and more) or ten a run. `long` adds the agent's memory over 10,000 pairs."""
    calls = calls or max(CALLS, 10 * runs)
    for part in (DEBIAN / "usr/lib/cni/bridge", CACHE / "conformance/bin/bridge"):
        if not part.exists():
            raise SystemExit(f"{part} is not there: run `tools/setup conformance` first")
    syscalls.unshare(syscalls.CLONE_NEWNS | syscalls.CLONE_NEWNET)
    syscalls.mount("none", "/", flags=syscalls.MS_REC | syscalls.MS_PRIVATE)
    netlink.writes.clear()
    others: list[Variant] = []
    try:
        with scratch() as folder, nft(folder), cnisite.sites(folder, 0.001, 0.02) as (site, slow):
            others = peers(folder)
            mine, mapped = ours(site), replace(ours(site), name="ours-ports")
            late = replace(ours(slow), name="late")
            reference = [*others, *(with_ports(peer) for peer in others)]
            times = one_by_one([mine, python_shim(site, folder), mapped, late, *reference], calls)
            rows = single(times, calls)
            slowed = record(
                "cni_add_slow_api", "ms", times["late"]["ADD"], peer=times["ours"]["ADD"], peer_name="1 ms API", n=calls
            )
            many = [*crowds([mine, *others]), *costs(site, mine, _agent_pid(site), BURST, BLOCKS)]
            return [*rows, slowed, *many, *(memory(site) if long else [])]
    finally:
        for peer in others:
            peer.space.close()


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--calls", type=int, default=CALLS)
    options.add_argument("--long", action="store_true", help="10,000 pairs more, for the agent's memory")
    options.add_argument("--json", type=Path)
    chosen = options.parse_args()
    text = json.dumps(measure(calls=chosen.calls, long=chosen.long), indent=1) + "\n"
    if chosen.json:
        chosen.json.write_text(text)
    sys.stdout.write(text)


if __name__ == "__main__":
    main()

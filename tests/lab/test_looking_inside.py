"""What a lab's agents tell of themselves: metrics after pods have come and gone, a dump that replays, no secrets."""

from __future__ import annotations

import json
import re
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families as parsed

sys.path.insert(0, str(Path(__file__).parent))
from kubectl import PODWIRE, Kubectl, eventually, lab

from podwire.agent import families

pytestmark = pytest.mark.timeout(180)
NODE = "look-worker"


@pytest.fixture(scope="module")
def kubectl(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kubectl]:
    with lab(tmp_path_factory.mktemp("look"), "look", "--nodes", "2") as kubectl:
        for name in ("here-first", "here-second"):
            container = {"name": "web", "image": "nginx"}
            spec = {"nodeName": NODE, "containers": [container], "terminationGracePeriodSeconds": 1}
            kubectl.apply({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": spec})
        kubectl.run("wait", "--for=condition=Ready", "pod/here-first", "pod/here-second", "--timeout=40s")
        kubectl.run("delete", "pod", "here-second", "--wait=true")
        yield kubectl


def podwire(kubectl: Kubectl, *words: str, code: int = 0) -> str:
    done = subprocess.run(
        [str(PODWIRE), *words], env=kubectl.env, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == code, f"{words}: {done.returncode}\n{done.stdout}{done.stderr}"
    return done.stdout


def metrics(kubectl: Kubectl) -> str:
    return podwire(kubectl, "lab", "exec", NODE, "--", "curl", "-s", "http://127.0.0.1:9098/metrics")


def values(text: str, sample: str) -> dict[tuple[str, ...], float]:
    found: Any = (one for family in parsed(text) for one in family.samples)
    return {tuple(one.labels.values()): one.value for one in found if one.name == sample}


def test_metrics_tell_what_happened_and_name_no_pod(kubectl: Kubectl) -> None:
    text = str(eventually(lambda: told(metrics(kubectl))))
    names = {family.name.removesuffix("_total") for family in families.ALL}
    assert {family.name for family in parsed(text)} <= names
    address = str(kubectl.object("pod", "here-first")["status"]["podIP"])
    assert "here-first" not in text
    assert not re.search(rf"{re.escape(address)}\b", text)


def told(text: str) -> str:
    """The metrics, once they tell of two pods that came and one that went."""
    calls = values(text, "podwire_cni_call_seconds_count")
    assert calls.get(("ADD", "podwire", "0"), 0) >= 2
    assert calls.get(("DEL", "podwire", "0"), 0) >= 1
    assert values(text, "podwire_endpoints").get(("routed", "ready"), 0) >= 1
    assert values(text, "podwire_ready") == {(): 1}
    assert set(values(text, "podwire_part_ready").values()) == {1}
    assert values(text, "podwire_watch_lists_total").get(("nodes",), 0) >= 1
    assert values(text, "podwire_watch_updates_total").get(("ipamblocks",), 0) >= 2
    assert values(text, "podwire_event_to_kernel_seconds_count").get((), 0) >= 1
    assert values(text, "podwire_log_events_total").get(("attached", "info"), 0) >= 2
    pool = values(text, "podwire_ipam_pool_addresses")
    assert sum(pool.values()) == 65536
    assert pool.get(("default-ipv4-ippool", "used"), 0) >= 3
    assert values(text, "podwire_ipam_node_blocks").get(("default-ipv4-ippool",), 0) >= 1
    assert values(text, "process_resident_memory_bytes").get((), 0) > 1 << 20
    return text


def test_a_dump_replays_and_is_for_its_owner_alone(kubectl: Kubectl, tmp_path: Path) -> None:
    file = tmp_path / "dump.json"
    shown = podwire(kubectl, "debug", "dump", "--node", NODE, "--out", str(file))
    assert NODE in shown and "routes" in shown
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    dump = json.loads(file.read_text())
    assert "here-first" in [one["pod"] for one in dump["attachments"] if one["state"] == "ready"]
    assert [fault for one in dump["seen"]["attachments"] if one["pod"] == "here-first" for fault in one["faults"]] == []
    assert podwire(kubectl, "debug", "replay", str(file)) == "equal: the journal gives the dumped state\n"
    assert json.loads(podwire(kubectl, "debug", "dump", "--node", NODE, "-o", "json"))["node"] == NODE

    state = dump["calculation"]["state"]
    gone = next(key for key, route in state["routes"].items() if route["via"] == "vxlan")
    del state["routes"][gone]
    file.write_text(json.dumps(dump))
    assert podwire(kubectl, "debug", "replay", str(file), code=1).startswith(f"state.routes.{gone}: not dumped")


def test_neither_dump_nor_log_has_the_agents_key(kubectl: Kubectl) -> None:
    def inside(*words: str) -> str:
        return podwire(kubectl, "lab", "exec", NODE, "--", *words)

    kubeconfig = inside("cat", "/etc/podwire/kubeconfig")
    paths = re.findall(r"client-key: (\S+)", kubeconfig)
    keys = [inside("cat", path) for path in paths] + re.findall(r"client-key-data: (\S+)", kubeconfig)
    assert keys
    log = Path(kubectl.env["PODWIRE_STATE"], "look", "logs", f"{NODE}-agent.log").read_text()
    assert "attached pod=default/here-first" in log
    shown = podwire(kubectl, "debug", "dump", "--node", NODE, "-o", "json") + log
    for key in keys:
        middle = "".join(line for line in key.splitlines() if "KEY" not in line)[20:60]
        assert len(middle) == 40
        assert middle not in shown.replace("\\n", "")


def test_a_node_that_is_none_is_refused_in_words(kubectl: Kubectl) -> None:
    command = [str(PODWIRE), "debug", "dump", "--node", "nowhere"]
    done = subprocess.run(command, env=kubectl.env, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1
    assert "no lab of this machine has a node nowhere" in done.stderr
    assert NODE in done.stderr


def test_repairs_are_counted(kubectl: Kubectl) -> None:
    def repairs() -> float:
        return sum(values(metrics(kubectl), "podwire_kernel_table_repairs_total").values())

    before = repairs()
    podwire(kubectl, "lab", "exec", NODE, "--", "sh", "-c", "ip route flush type blackhole")
    eventually(lambda: repairs() > before)

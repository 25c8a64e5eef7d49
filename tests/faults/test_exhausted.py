"""A pool without a free address: a clear refusal that says so, no busy loop, and a pod the moment one is freed."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import pytest

from podwire.kube.events import Recorder
from podwire.kube.fake import FakeApi
from podwire.kubelet import podsandbox
from podwire.kubelet.children import Children
from podwire.kubelet.cniconf import CniError
from podwire.kubelet.cnirun import Attachment, CniRunner
from podwire.model.gvr import EVENTS
from tests.faults.conftest import Site, Space
from tests.netns.agent.conftest import until


def _cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


async def _told(site: Site, space: Space, tries: int) -> list[dict[str, Any]]:
    """The Events of a pod that a kubelet tries to start so many times, each in a new sandbox."""
    cni = CniRunner(Children(), site.node.conflist.parent, (site.node.bin_dir,), site.node.folder / "cache")
    api = FakeApi()
    recorder, pod = Recorder(api), {"kind": "Pod", "metadata": {"name": "late", "namespace": "default"}}
    for number in range(tries):
        attachment = Attachment(f"{number:064x}", space.path, "default", "late")
        with pytest.raises(CniError) as refused:
            await cni.add(attachment)
        await cni.delete(attachment)
        problem = podsandbox.not_connected(attachment.container_id, refused.value)
        await recorder.record(pod, "Warning", "FailedCreatePodSandBox", str(problem), "kubelet", same=problem.same)
    return api.objects(EVENTS)


def test_exhausted_then_freed(tiny: Site) -> None:
    site = tiny
    spaces = [site.space() for _ in range(9)]
    made: dict[str, str] = {}
    refused = None
    for number, space in enumerate(spaces):
        code, answer = site.call("ADD", f"p{number}", space.path)
        if code:
            refused = number, space, answer
            break
        made[f"p{number}"] = answer["ips"][0]["address"]
    assert refused is not None, "eight addresses served nine pods"
    number, space, answer = refused
    assert len(made) >= 6, made
    assert len(set(made.values())) == len(made)
    assert answer["code"] == 11
    assert "address" in answer["msg"] + answer.get("details", "")

    # what is asked in vain leaves nothing, and nobody goes on asking
    site.delete(f"p{number}", space)
    until("nothing half-made", lambda: len(site.traces()["links"]) == len(made))
    assert site.node.agent is not None
    calls, cpu = sum(site.api.fake.calls.values()), _cpu_seconds(site.node.agent.pid)
    end = time.monotonic() + 2
    while time.monotonic() < end:
        assert sum(site.api.fake.calls.values()) - calls < 50
        time.sleep(0.1)
    assert _cpu_seconds(site.node.agent.pid) - cpu < 1

    (told,) = site.api.do(_told(site, space, tries=5))
    assert told["count"] == 5 and answer["msg"] in told["message"]

    site.delete("p0", spaces[0])

    def served() -> bool:
        return site.call("ADD", "late", space.path)[0] == 0

    until("the freed address serves", served, seconds=20)
    for name, other in (("late", space), *((f"p{i}", spaces[i]) for i in range(1, len(made)))):
        site.delete(name, other)
    site.clean()

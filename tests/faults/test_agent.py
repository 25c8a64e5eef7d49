"""The agent down, or killed at every step between address and reply: a retry works, and nothing is there twice."""

from __future__ import annotations

import signal

import pytest

from podwire.agent import points
from tests.faults.conftest import Site
from tests.netns.agent.conftest import until

ON_DEL = ("doomed", "deleted", "released")
ON_ADD = tuple(name for name in points.POINTS if name not in ON_DEL)


def test_down(site: Site) -> None:
    """Each verb has its code, and what was asked meanwhile leaves nothing half-done."""
    kept, space, other = site.space(), site.space(), site.space()
    kept_answer = site.add("kept", kept)
    going = site.add("going", space)
    site.node.stop(signal.SIGKILL)
    codes = {verb: site.call(verb, "other", other.path)[1].get("code") for verb in ("ADD", "CHECK", "STATUS", "GC")}
    assert codes == {"ADD": 11, "CHECK": 11, "STATUS": 50, "GC": 11}
    site.delete("going", space, prevResult=going)
    site.delete("going", space, prevResult=going)
    site.node.start()
    until("the spooled DEL is done", lambda: len(site.traces()["links"]) == 1)
    answer = site.add("other", other)
    site.answers(other, answer)
    site.answers(kept, kept_answer)
    site.delete("kept", kept)
    site.delete("other", other)
    site.clean()


@pytest.mark.parametrize("manner", ["kill", "raise"])
@pytest.mark.parametrize("point", ON_ADD)
def test_fault_in_add(site: Site, monkeypatch: pytest.MonkeyPatch, point: str, manner: str) -> None:
    site.node.stop()
    monkeypatch.setenv("PODWIRE_FAULT", f"{point}:{manner}")
    site.node.start()
    space = site.space()
    code, answer = site.call("ADD", "one", space.path)
    assert (code, answer["code"]) == (1, 11 if manner == "kill" else 5), answer
    monkeypatch.delenv("PODWIRE_FAULT")
    site.node.stop(signal.SIGKILL)
    site.node.start()
    again = site.add("one", space)
    site.answers(space, again)
    until("one of each", lambda: all(len(found) == 1 for name, found in site.traces().items() if name != "spooled"))
    assert site.held() == {"p-one": [again["ips"][0]["address"].partition("/")[0]]}
    site.delete("one", space)
    site.clean()


@pytest.mark.parametrize("point", ON_DEL)
def test_fault_in_del(site: Site, monkeypatch: pytest.MonkeyPatch, point: str) -> None:
    site.node.stop()
    monkeypatch.setenv("PODWIRE_FAULT", f"{point}:kill")
    site.node.start()
    space = site.space()
    answer = site.add("one", space)
    site.delete("one", space, prevResult=answer)  # answered, or spooled
    monkeypatch.delenv("PODWIRE_FAULT")
    site.node.stop(signal.SIGKILL)
    site.node.start()
    site.delete("one", space, prevResult=answer)
    site.clean()
    again = site.add("one", space)
    site.answers(space, again)

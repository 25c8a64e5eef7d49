"""ADDs that wait when the agent stops are answered; nobody waits for an API that does not answer."""

from __future__ import annotations

from concurrent.futures import Future
from pathlib import Path

import pytest

from podwire.agent.attach import Attacher
from podwire.agent.attachments import Attachments
from podwire.agent.claimer import Claimer, Pending, Ticket
from podwire.agent.turns import Turns
from podwire.agent.wiring import Sockets
from podwire.cni.spec import CniError


def arrived(attacher: Attacher, name: str) -> Ticket:
    env = {"CNI_COMMAND": "ADD", "CNI_CONTAINERID": name, "CNI_IFNAME": "eth0"}
    attacher.arrive(env)
    return attacher._tickets[id(env)][1]


def test_an_agents_end_calls_off_what_waits_for_addresses(tmp_path: Path) -> None:
    turns = Turns()
    attacher = Attacher(Attachments(tmp_path), {}, Claimer(turns), Sockets())
    ticket, pending = arrived(attacher, "a"), Pending(Future(), turns)
    ticket.hold(pending)
    ticket.check()
    attacher.end()
    for call in (pending.addresses, ticket.check, arrived(attacher, "late").check):
        with pytest.raises(CniError, match="came meanwhile") as caught:
            call()
        assert caught.value.code == 11 and "the agent is stopping" in caught.value.details

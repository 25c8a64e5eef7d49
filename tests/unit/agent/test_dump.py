"""How a dump shows a table: equal, refused by the kernel, in doubt."""

from __future__ import annotations

import errno
from typing import Any

from podwire.agent.dump import table
from podwire.kernel.delta import Delta
from podwire.kernel.fake import FakeKernel
from podwire.kernel.reconcile import reconcile
from podwire.kernel.routes import TYPE_BLACKHOLE, Route
from podwire.kernel.tables import Routes

ONE, TWO = (Route(cidr, type=TYPE_BLACKHOLE, protocol=80) for cidr in ("10.0.0.0/26", "10.0.1.0/26"))


def shown(delta: Delta[str, Any]) -> tuple[bool, list[str], list[str]]:
    found = table(delta)
    return found["doubt"], found["pending_writes"], found["pending_removals"]


def test_a_table_in_its_states() -> None:
    kernel, delta = FakeKernel(), Delta[str, Route]()
    routes = Routes(kernel, lambda row: True)
    delta.want({ONE.destination: ONE})
    assert shown(delta) == (True, [ONE.destination], [])
    assert reconcile(delta, routes) == []
    assert shown(delta) == (False, [], [])
    delta.want({TWO.destination: TWO})
    assert shown(delta) == (False, [TWO.destination], [ONE.destination])
    kernel.refuse["add route"] = errno.EINVAL
    assert len(reconcile(delta, routes)) == 1
    assert shown(delta) == (True, [TWO.destination], [])
    assert table(delta)["wanted"][TWO.destination]["destination"] == TWO.destination

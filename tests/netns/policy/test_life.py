"""What may not happen while policy changes, fails, or is taken away: no packet passes that it forbids, none is lost
that it allows. And connections that stand, the node's own traffic, pods that nobody knows."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

from podwire.agent.policyengine import Binding
from podwire.calc.verdicts import Decision, Governed, Match, PolicyChanges, PolicyState, RuleRef, Stage, Table
from podwire.kernel import netlink, netns, nft
from podwire.kernel.netlink import KernelError
from podwire.model.policy import ICMP, TCP, UDP, Direction
from tests.netns.policy import wires
from tests.netns.policy.wires import Flow, Node

A, B = "10.9.0.1", "10.9.0.2"
ALLOWED, FORBIDDEN = 80, 81
YES, NO = Decision(True, RuleRef(None, "p")), Decision(False, RuleRef(None, "default"))


@pytest.fixture(params=["keep", "strict"])
def mode(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def node(request: pytest.FixtureRequest) -> Iterator[Node]:
    strict = "mode" in request.fixturenames and request.getfixturevalue("mode") == "strict"
    made = Node(strict=strict)
    try:
        made.pod("a", A)
        made.pod("b", B)
        yield made
    finally:
        made.close()


def state(*, peer: int = 1, number: int = 1, ports: tuple[int, ...] = (ALLOWED,), shape: str = "c") -> PolicyState:
    """b lets a in to these ports, by UDP and TCP; `peer` is a's class, `number` and `shape` are those of b's table."""
    rows = {Match(peer, protocol, port, port): YES for port in ports for protocol in (TCP, UDP)}
    stages = tuple(Stage(letter == "c", rows if letter == "c" else {}) for letter in shape)
    return PolicyState(
        addresses={A: peer, B: 9},
        tables={number: Table(Direction.INGRESS, stages, NO)},
        pods={("default", "a"): Governed(), ("default", "b"): Governed(number, None)},
    )


class Probe:
    """Datagrams from a to b, to the allowed port and to the forbidden one by turns, each of a connection of its own."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._stop = threading.Event()
        self.sent = 0
        self.arrived: dict[int, int] = {ALLOWED: 0, FORBIDDEN: 0}
        self._threads = [threading.Thread(target=self._send), threading.Thread(target=self._hear)]

    def __enter__(self) -> Probe:
        with netns.inside(self._node.pods["b"].space.fd):
            self._ears = {port: socket.socket(socket.AF_INET, socket.SOCK_DGRAM) for port in self.arrived}
            for port, ear in self._ears.items():
                ear.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 22)
                ear.bind((B, port))
                ear.setblocking(False)
        for thread in self._threads:
            thread.start()
        return self

    def _send(self) -> None:
        with netns.inside(self._node.pods["a"].space.fd):
            while not self._stop.is_set():
                for port in self.arrived:
                    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as mouth:
                        mouth.sendto(b"x", (B, port))
                self.sent += 1
                time.sleep(0.001)

    def _hear(self) -> None:
        while not self._stop.is_set() or self._pending():
            self._pending()
            time.sleep(0.005)

    def _pending(self) -> bool:
        found = False
        for port, ear in self._ears.items():
            try:
                while ear.recv(10):
                    self.arrived[port] += 1
                    found = True
            except BlockingIOError:
                continue
        return found

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()
        end = time.monotonic() + 3  # what was sent last may be under way
        while self.arrived[ALLOWED] < self.sent and time.monotonic() < end:
            self._pending()
            time.sleep(0.01)
        for ear in self._ears.values():
            ear.close()


def changes(before: PolicyState, after: PolicyState) -> PolicyChanges:
    """Between two states whose tables have different numbers, or the same content."""
    moved = {key for key in before.addresses | after.addresses if before.addresses.get(key) != after.addresses.get(key)}
    retired = set(before.addresses.values()) - set(after.addresses.values())
    rows: dict[int, frozenset[tuple[int, Match]]] = {}
    for n in before.tables.keys() & after.tables.keys():
        old, new = before.tables[n].stages[-1].rows, after.tables[n].stages[-1].rows
        rows[n] = frozenset((len(after.tables[n].stages) - 1, key) for key in old.keys() ^ new.keys())
    pods = {pod for pod in before.pods | after.pods if before.pods.get(pod) != after.pods.get(pod)}
    return PolicyChanges(
        addresses=frozenset(moved),
        tables=frozenset(before.tables.keys() ^ after.tables.keys()),
        rows=rows,
        pods=frozenset(pods),
        retired=frozenset(retired),
    )


def test_no_window_while_classes_and_tables_change(node: Node) -> None:
    """The probe's peer changes its class, and the pod its table, over and over: what may pass always does, what may
    not never does."""
    now = state()
    node.apply(now)
    with Probe(node) as probe:
        end, turn = time.monotonic() + 4, 0
        while time.monotonic() < end or turn < 60:
            turn += 1
            peer, number = now.addresses[A], max(now.tables)
            if turn % 3:
                peer = 3 - peer
            else:
                number += 1
            after = state(peer=peer, number=number, shape=("c", "ac")[number % 2])
            node.apply(after, changes(now, after))
            now = after
    assert probe.sent > 200
    assert probe.arrived == {ALLOWED: probe.sent, FORBIDDEN: 0}, turn


def test_pods_are_closed_from_their_first_moment(node: Node) -> None:
    """A pod comes again and again, with a sender that waits for it: nothing of what is forbidden ever arrives."""
    node.apply(state(ports=()))
    pod, stop, sent = node.pods["a"], threading.Event(), [0]
    with netns.inside(node.pods["b"].space.fd):
        ear = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        ear.bind((B, FORBIDDEN))
        ear.setblocking(False)

    def pour() -> None:
        frame = node.frame(Flow(A, B, UDP, FORBIDDEN))[0]
        with netns.inside(pod.space.fd):
            while not stop.is_set():
                try:
                    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as mouth:
                        mouth.bind(("eth0", 0))
                        while not stop.is_set():
                            mouth.send(frame)
                            sent[0] += 1
                except OSError:
                    continue

    thread = threading.Thread(target=pour)
    thread.start()
    try:
        with ear:
            for _ in range(100):
                with node.inside():
                    node.engine.unbind(pod.interface)
                    node.links.delete_link(node.links.link_index(pod.interface) or 0)
                node.wire(pod)
                with pytest.raises(BlockingIOError):
                    ear.recv(100)
    finally:
        stop.set()
        thread.join()
    assert sent[0] > 100


def test_connections_that_stand(node: Node, mode: str) -> None:
    """A permission that goes leaves them (keep), or cuts them (strict)."""
    node.apply(state())
    with node.pods["b"].space.listen(B, ALLOWED) as listener, node.pods["a"].space.socket() as client:
        client.connect((B, ALLOWED))
        server, _ = listener.accept()
        with server:
            server.settimeout(3)
            client.sendall(b"1")
            assert server.recv(1) == b"1"
            after = state(ports=())
            node.apply(after, changes(node.state, after))
            client.sendall(b"2")
            if mode == "keep":
                assert server.recv(1) == b"2"
                server.sendall(b"3")
                assert client.recv(1) == b"3"
            else:
                server.settimeout(0.7)
                with pytest.raises(TimeoutError):
                    server.recv(1)


def test_the_node_reaches_its_pods_and_strangers_are_closed(node: Node) -> None:
    node.apply(state(ports=()))
    with node.inside():
        own = socket.socket()
    with node.pods["b"].space.listen(B, FORBIDDEN), own:
        own.settimeout(5)
        own.connect((B, FORBIDDEN))
    assert node.passing([Flow(B, A, UDP, 9), Flow(A, B, UDP, 9), Flow(A, B, ICMP, 8 << 8)]) == [True, False, False]
    with node.inside():
        node.engine.bind(Binding(node.pods["a"].interface, ("default", "nobody knows"), (A,)))
    assert node.passing([Flow(B, A, UDP, 9), Flow(A, B, UDP, ALLOWED)]) == [False, False]


def test_what_others_take_comes_back(node: Node) -> None:
    node.apply(state())
    flows = [Flow(A, B, UDP, ALLOWED), Flow(A, B, UDP, FORBIDDEN)]
    for text in (
        "flush ruleset",
        "flush chain inet podwire_policy forward",
        "flush map inet podwire_policy ingress",
        "delete element inet podwire_policy pod4 { 10.9.0.1 }",
        "add element inet podwire_policy pod4 { 10.9.0.77 : 3 }",
    ):
        with node.inside():
            nft.run(f"{text}\n")
        node.apply(node.state)
        assert node.passing(flows) == [True, False], text
        with node.inside():
            node.engine.settle()
            netlink.writes.clear()
            node.engine.doubt()
            assert node.engine.apply(node.state, PolicyChanges()) == []
        assert not netlink.writes, text


@pytest.mark.parametrize("point", range(3))
def test_a_change_that_fails_leaves_what_was_and_is_made_later(node: Node, point: int) -> None:
    """The kernel refuses the transaction of this number: the forbidden stays forbidden, and the next try heals."""
    node.apply(state())
    real, calls = node.elements, [0]

    class Refusing:
        def __getattr__(self, name: str) -> Any:
            if name in ("update", "flush"):
                calls[0] += 1
                if calls[0] == point + 1:
                    raise KernelError("try", 12)
            return getattr(real(), name)

    node.engine._sockets = Refusing  # type: ignore[assignment]
    after = state(peer=2, number=2, shape="ac")
    with node.inside():
        failed = node.engine.apply(after, changes(node.state, after))
        with contextlib.suppress(KernelError):
            node.engine.settle()  # the rest of the change
    assert failed or point, "the first is the one that matters"
    assert node.passing([Flow(A, B, UDP, ALLOWED), Flow(A, B, UDP, FORBIDDEN)]) == [True, False]
    with node.inside():
        for error in node.engine.apply(after, PolicyChanges()):
            raise error
        node.engine.settle()
    assert node.passing([Flow(A, B, UDP, ALLOWED), Flow(A, B, UDP, FORBIDDEN)]) == [True, False]
    other = node.another()
    other.restore(node.engine.bound().values())
    with node.inside():
        netlink.writes.clear()
        assert other.apply(after, PolicyChanges()) == []
    assert not netlink.writes, wires.listing(node)

"""Calls that are admitted while the engine is at work: each goes on when that is free, however few turns there are."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, cast

from podwire.agent.admission import Admission, speaker_of
from podwire.agent.attachments import ROUTED, Attachment
from podwire.agent.policyengine import Binding, PolicyEngine
from podwire.agent.policygate import PolicyGate
from podwire.agent.turns import Turns
from podwire.kernel.nfelements import ElementSocket
from podwire.kernel.tables import NftProgram

CALLS = 4


class Engine:
    """Takes whoever is bound, one after the other."""

    in_force = True

    def __init__(self) -> None:
        self.guard = threading.RLock()

    @contextmanager
    def binding(self, one: Binding) -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
        with self.guard:
            yield {}, {}


class Elements:
    def update(self, **changes: Any) -> None: ...


def attachment(number: int) -> Attachment:
    name, mac = f"cali{number:011x}", f"02:00:00:00:00:{number:02x}"
    return Attachment(f"c{number}", "eth0", "pods", "", name, mac, 1500, "", (f"10.244.0.{number}",), role=ROUTED)


def test_waiting_for_the_engine_holds_up_nobody() -> None:
    engine, turns = Engine(), Turns(1)
    gate = PolicyGate(cast(PolicyEngine, engine), lambda *_: False, lambda: cast(Any, None), turns)
    admission = Admission(cast(NftProgram, None), lambda: cast(ElementSocket, Elements()), gate)
    waiting, admitted = [], []

    def serve(record: Attachment) -> None:
        with turns.taken():
            gate.expect(record)
            waiting.append(record)
            admission.admit(speaker_of(record))
            admitted.append(record)

    threads = [threading.Thread(target=serve, args=(attachment(n),), daemon=True) for n in range(1, CALLS + 1)]
    with engine.guard:
        for thread in threads:
            thread.start()
        end = time.monotonic() + 30
        while len(waiting) < CALLS:
            assert time.monotonic() < end, "a call that waits for the engine kept its turn"
            time.sleep(0.001)
        assert not admitted
    for thread in threads:
        thread.join(30)
    assert len(admitted) == CALLS

"""What Log rules of policies say, as lines of the agent's log: which rule, from whom to whom.

A thread reads the group; a flood is counted, and only a part of it written.
"""

from __future__ import annotations

import logging
import os
import select
import socket
import struct
import threading
import time
from collections.abc import Callable, Mapping

from podwire.agent import families
from podwire.agent.figures import Figures
from podwire.calc.verdicts import RuleRef
from podwire.kernel.netlink import KernelError
from podwire.kernel.nflog import Logged, LogSocket
from podwire.model.policy import PORTED
from podwire.render.nft_policy import LOG_GROUP, LOG_PREFIX

log = logging.getLogger(__name__)

LINES_A_SECOND = 50
_AGAIN_SECONDS = 30.0


class PolicyLogs:
    """`rules` gives the Log rules by number."""

    def __init__(self, rules: Callable[[], Mapping[int, tuple[RuleRef, ...]]], figures: Figures) -> None:
        self._rules = rules
        self._figures = figures
        self._stop = os.pipe()
        self._thread = threading.Thread(target=self._run, name="policy-logs", daemon=True)
        self._second, self._lines = 0, 0

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        os.close(self._stop[1])
        if self._thread.is_alive():
            self._thread.join(timeout=5)
        os.close(self._stop[0])

    def _run(self) -> None:
        while True:
            try:
                with LogSocket(LOG_GROUP) as heard:
                    while not self._ended(heard):
                        self._hear(heard)
                    return
            except (KernelError, OSError) as error:
                log.warning("log group not heard group=%d error=%s", LOG_GROUP, error)
            if select.select([self._stop[0]], [], [], _AGAIN_SECONDS)[0]:
                return

    def _ended(self, heard: LogSocket) -> bool:
        return self._stop[0] in select.select([heard.fileno(), self._stop[0]], [], [])[0]

    def _hear(self, heard: LogSocket) -> None:
        try:
            for one in heard.packets():
                self._tell(one)
        except OSError:  # the kernel dropped some: they are not counted either
            return

    def _tell(self, one: Logged) -> None:
        number = one.prefix.removeprefix(LOG_PREFIX).strip()
        rules = self._rules().get(int(number), ()) if number.isdigit() else ()
        for rule in rules:
            self._figures.add(families.POLICY_LOGGED)
            if self._may():
                source, target, protocol, port = flow(one.payload)
                log.info(
                    "policy log rule=%s source=%s target=%s protocol=%s port=%s", rule, source, target, protocol, port
                )

    def _may(self) -> bool:
        second = int(time.monotonic())
        self._second, self._lines = second, self._lines + 1 if second == self._second else 1
        return self._lines <= LINES_A_SECOND


def flow(packet: bytes) -> tuple[str, str, int, int]:
    """Source, target, protocol number and destination port (0: none) of an IP packet; empty for what is none. An IPv6
    packet's extension headers are not looked behind."""
    if len(packet) >= 40 and packet[0] >> 4 == 6:
        family, start, size, protocol, behind = socket.AF_INET6, 8, 16, packet[6], 40
    elif len(packet) >= 20 and packet[0] >> 4 == 4:
        family, start, size, protocol, behind = socket.AF_INET, 12, 4, packet[9], (packet[0] & 15) * 4
    else:
        return "", "", 0, 0
    ends = (socket.inet_ntop(family, packet[at : at + size]) for at in (start, start + size))
    ported = protocol in PORTED and len(packet) >= behind + 4
    port = struct.unpack_from(">H", packet, behind + 2)[0] if ported else 0
    return next(ends), next(ends), protocol, port

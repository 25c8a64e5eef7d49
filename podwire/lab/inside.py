"""Call a function inside a node of a lab: in its namespaces, by a child of ours, without starting a program.

What the function needs must have been imported before: in the node, this machine's files are out of sight.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable

from podwire.lab.exec import enter
from podwire.lab.processes import node_pid
from podwire.lab.state import LabError, LabState

_GOOD, _BAD = b"+", b"-"


def call(state: LabState, node: str, work: Callable[[], bytes]) -> bytes:
    """What `work` returns, called in the node. Raises LabError when the node does not run, or with the words of what
    `work` raised."""
    pid = node_pid(state, node)
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reader)
        _enter_and_work(pid, work, writer)
    os.close(writer)
    with os.fdopen(reader, "rb") as pipe:
        answer = pipe.read()
    os.waitpid(child, 0)
    if answer[:1] != _GOOD:
        raise LabError(f"node {node}: {answer[1:].decode(errors='replace') or 'it ended while it was looked at'}")
    return answer[1:]


def _enter_and_work(pid: int, work: Callable[[], bytes], writer: int) -> None:
    """In the child; the work is done by a child of its own, as a new pid namespace is for children. Never returns."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    try:
        enter(pid)
        inner = os.fork()
        if inner == 0:
            _answer(writer, _GOOD + work())
            os._exit(0)
        os.waitpid(inner, 0)
    except BaseException as error:  # noqa: BLE001 - the end of a process: whoever asked gets the words
        _answer(writer, _BAD + (str(error) or type(error).__name__).encode())
    finally:
        os._exit(0)


def _answer(writer: int, data: bytes) -> None:
    while data:
        data = data[os.write(writer, data) :]

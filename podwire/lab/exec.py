"""Run a command inside a node, as `docker exec` would: in the node's namespaces, with or without a terminal.

With `-t` a terminal is made inside the node and both sides are copied; the caller's own, if standard input is one, is
set to raw meanwhile. Where it is none (a script, a here-document) the made one does not echo what is typed into it.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import select
import signal
import struct
import sys
import termios
import tty
from collections.abc import Iterator, Sequence
from pathlib import Path

from podwire.lab import syscalls
from podwire.lab.processes import node_pid
from podwire.lab.state import LabError, LabState, every_lab

_ORDER = (
    ("user", syscalls.CLONE_NEWUSER),
    ("ipc", syscalls.CLONE_NEWIPC),
    ("uts", syscalls.CLONE_NEWUTS),
    ("net", syscalls.CLONE_NEWNET),
    ("pid", syscalls.CLONE_NEWPID),
    ("mnt", syscalls.CLONE_NEWNS),
)
_END_OF_INPUT = b"\x04"
_REPEAT = 0.3


def find_node(name: str) -> LabState:
    """The lab that has a node of that name. Raises LabError, naming the nodes there are."""
    known: list[str] = []
    for state in every_lab():
        try:
            plan = state.read_plan()
        except LabError:
            continue  # another lab's trouble
        if plan is None:
            continue
        if plan.node(name):
            return state
        known += [node.name for node in plan.nodes]
    there = f"; there are {', '.join(known)}" if known else "; no lab is up"
    raise LabError(f"no node is named {name}{there}")


def run(node: str, command: Sequence[str], *, stdin: bool, terminal: bool) -> int:
    """Run `command` in the node and answer its exit code (128 + signal when it was killed). Raises LabError."""
    state = find_node(node)
    pid = node_pid(state, node)
    env = _environment(node, terminal=terminal)
    enter(pid)
    master, slave = os.openpty() if terminal else (-1, -1)
    child = os.fork()
    if child == 0:
        if terminal and not os.isatty(0):
            _shape(slave)
        _become(node, command, env, (slave, master), stdin=stdin)
    if terminal:
        os.close(slave)
        with _raw(master):
            _copy(master, child, stdin=stdin)
    return _wait(child)


@contextlib.contextmanager
def _raw(master: int) -> Iterator[None]:
    """Our own terminal, if there is one, passes every key on, and its size too."""
    if not os.isatty(0):
        yield
        return

    def resize(*_: object) -> None:
        fcntl.ioctl(master, termios.TIOCSWINSZ, fcntl.ioctl(0, termios.TIOCGWINSZ, b"\0" * 8))

    before = termios.tcgetattr(0)
    resize()
    signal.signal(signal.SIGWINCH, resize)
    tty.setraw(0)
    try:
        yield
    finally:
        termios.tcsetattr(0, termios.TCSADRAIN, before)


def enter(pid: int) -> None:
    """Enter the namespaces of `pid`. A namespace that we are in already (the user's, as root) is left as it is."""
    fds = []
    try:
        for name, flag in _ORDER:
            theirs, ours = Path(f"/proc/{pid}/ns/{name}").stat(), Path(f"/proc/self/ns/{name}").stat()
            if theirs.st_ino != ours.st_ino:
                fds.append((os.open(f"/proc/{pid}/ns/{name}", os.O_RDONLY | os.O_CLOEXEC), flag))
    except FileNotFoundError:
        raise LabError("the node has just ended") from None
    for fd, flag in fds:
        syscalls.setns(fd, flag)
        os.close(fd)
    os.chdir("/")


def _become(node: str, command: Sequence[str], env: dict[str, str], terminal: tuple[int, int], *, stdin: bool) -> None:
    """In the child: standard streams, environment, then the command. `terminal` is (slave, master). Never returns."""
    slave, master = terminal
    try:
        if slave >= 0:
            os.close(master)
            os.setsid()
            fcntl.ioctl(slave, termios.TIOCSCTTY, 0)
            for fd in (0, 1, 2):
                os.dup2(slave, fd)
        elif not stdin:
            os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.environ["PATH"] = env["PATH"]
        os.execvpe(command[0], list(command), env)
    except FileNotFoundError:
        os.write(2, f"podwire: {command[0]}: not found on node {node}\n".encode())
        os._exit(127)
    except OSError as error:
        os.write(2, f"podwire: {command[0]}: {error.strerror}\n".encode())
    os._exit(126)


def _environment(node: str, *, terminal: bool) -> dict[str, str]:
    from podwire.lab.nodes import environment

    env = environment(node)
    if terminal:
        env["TERM"] = os.environ.get("TERM", "xterm")
    return env


def _shape(slave: int) -> None:
    """A terminal for scripts: output lines end as they do in a pipe, and nothing typed is echoed twice."""
    settings = termios.tcgetattr(slave)
    settings[1] &= ~termios.OPOST
    settings[3] &= ~termios.ECHO
    termios.tcsetattr(slave, termios.TCSANOW, settings)
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 50, 200, 0, 0))


def _copy(master: int, child: int, *, stdin: bool) -> None:
    """Copy standard input to the terminal and the terminal to standard output, until the command ends or its side
    closes. What it left in the background may hold the terminal longer and is not waited for.

    The end of input is typed again from time to time: a shell that is just changing its terminal's mode loses it.
    """
    ended = os.pidfd_open(child)
    sources = [master, ended, 0] if stdin else [master, ended]
    while True:
        ready = select.select(sources, [], [], None if 0 in sources or not stdin else _REPEAT)[0]
        if not ready:
            _write(master, _END_OF_INPUT)
        if ended in ready:
            _drain(master)
            return
        for source in ready:
            try:
                data = os.read(source, 65536)
            except OSError:
                return  # EIO: the last process closed its terminal
            if source == master:
                if not data:
                    return
                _write(1, data)
            elif data:
                _write(master, data)
            else:
                sources.remove(0)
                _write(master, _END_OF_INPUT)


def _drain(master: int) -> None:
    """The last words: a terminal holds less than is read here, and what is left running may go on for ever."""
    for _ in range(64):
        if not select.select([master], [], [], 0)[0]:
            return
        try:
            data = os.read(master, 65536)
        except OSError:
            return
        _write(1, data)


def _write(fd: int, data: bytes) -> None:
    while data:
        data = data[os.write(fd, data) :]


def _wait(child: int) -> int:
    """Wait for the command; what is typed as an interrupt is the command's business, not ours."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGQUIT, signal.SIG_IGN)
    status = os.waitpid(child, 0)[1]
    sys.stdout.flush()
    return 128 + os.WTERMSIG(status) if os.WIFSIGNALED(status) else os.WEXITSTATUS(status)

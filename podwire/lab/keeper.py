"""Keep daemons running: fork them, reap them (and orphans, as PID 1 must), start again those that died.

A daemon is a function that blocks until SIGTERM. Each has a log file that its standard output and error go to.
"""

from __future__ import annotations

import gc
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field

from podwire.lab import logs, syscalls

_FIRST_PAUSE, _LONGEST_PAUSE, _CALM = 0.1, 10.0, 30.0
_WAITED = {signal.SIGCHLD, signal.SIGTERM, signal.SIGINT}


@dataclass(slots=True)
class Daemon:
    """One thing to keep running; `start` forks it and answers its pid."""

    name: str
    start: Callable[[], int]
    pid: int = 0
    started: float = 0.0
    pause: float = 0.0
    due: float = 0.0
    restarts: int = 0


@dataclass(slots=True)
class Keeper:
    """The daemons of this process."""

    daemons: list[Daemon] = field(default_factory=list)
    log: int = 2

    def add(self, name: str, start: Callable[[], int]) -> None:
        """Start `name` now and keep it running."""
        daemon = Daemon(name, start)
        self.daemons.append(daemon)
        self._start(daemon)

    def run(self) -> None:
        """Reap and restart until SIGTERM; then end the daemons and return."""
        signal.pthread_sigmask(signal.SIG_BLOCK, _WAITED)
        while True:
            self._reap()
            now = time.monotonic()
            for daemon in self.daemons:
                if not daemon.pid and daemon.due <= now:
                    self._start(daemon)
            due = [daemon.due - now for daemon in self.daemons if not daemon.pid]
            got = signal.sigtimedwait(_WAITED, max(0.0, min(due))) if due else signal.sigwaitinfo(_WAITED)
            if got is not None and got.si_signo != signal.SIGCHLD:
                self._end()
                return

    def _start(self, daemon: Daemon) -> None:
        daemon.started = time.monotonic()
        try:
            daemon.pid = daemon.start()
        except OSError as error:
            self._say(f"{daemon.name}: cannot start: {error}")
            self._postpone(daemon)

    def _reap(self) -> None:
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            for daemon in self.daemons:
                if daemon.pid == pid:
                    daemon.pid = 0
                    self._postpone(daemon)
                    self._say(f"{daemon.name}: {describe(status)}; again in {daemon.due - time.monotonic():.1f} s")

    def _postpone(self, daemon: Daemon) -> None:
        now = time.monotonic()
        calm = now - daemon.started > _CALM
        daemon.pause = _FIRST_PAUSE if calm or not daemon.pause else min(daemon.pause * 2, _LONGEST_PAUSE)
        daemon.due = now + daemon.pause
        daemon.restarts += 1

    def _end(self) -> None:
        running = [daemon.pid for daemon in self.daemons if daemon.pid]
        for pid in running:
            os.kill(pid, signal.SIGTERM)
        deadline = time.monotonic() + 5
        while running and time.monotonic() < deadline:
            try:
                pid, _ = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            running = [other for other in running if other != pid]
            if pid == 0:
                time.sleep(0.01)

    def _say(self, text: str) -> None:
        stamp = time.strftime("%Y-%m-%dT%H:%M:%S")
        try:
            os.write(self.log, f"{stamp} {text}\n".encode())
        except OSError:
            return  # the disk may be full; keeping daemons alive matters more than telling of it


def describe(status: int) -> str:
    """What a wait status says, in words."""
    if os.WIFSIGNALED(status):
        return f"killed by {signal.Signals(os.WTERMSIG(status)).name}"
    return f"ended with {os.WEXITSTATUS(status)}"


def spawn(title: str, work: Callable[[], None], log: int) -> int:
    """Fork; the child takes the title and log, runs `work` and ends. Answers the child's pid."""
    pid = os.fork()
    if pid:
        return pid
    code = 1
    try:
        become_daemon(title, log)
        logs.start()
        work()
        code = 0
    except SystemExit as stop:
        code = stop.code if isinstance(stop.code, int) else 1
    except BaseException:  # noqa: BLE001 - the last stop of a process: say what happened, then end
        traceback.print_exc()
    finally:
        try:
            sys.stdout.flush()
            sys.stderr.flush()
        except OSError:
            code = code or 1
        os._exit(code)


def become_daemon(title: str, log: int) -> None:
    """Default signals, own session, standard streams to the log, and the title in ps."""
    logs.cut(log)
    signal.pthread_sigmask(signal.SIG_SETMASK, set())
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGCHLD, signal.SIGPIPE):
        signal.signal(number, signal.SIG_DFL)
    signal.signal(signal.SIGPIPE, signal.SIG_IGN)
    if os.getpid() != os.getsid(0):
        os.setsid()
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    os.dup2(log, 1)
    os.dup2(log, 2)
    os.close(null)
    syscalls.name_process(title)
    gc.freeze()

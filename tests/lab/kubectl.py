"""An unmodified kubectl on a lab of the test's own: how the tests below speak to a cluster, as a user does."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import re
import select
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
PODWIRE = ROOT / ".venv" / "bin" / "podwire"


def patience() -> int:
    """How many times the limits written in the tests, which suit the embedded home, a lab of genuine Kubernetes has.

    A limit is only for what never comes; every wait ends with what it is for.
    """
    return int(os.environ.get("PODWIRE_TEST_PATIENCE") or 1)


def patient(words: tuple[str, ...]) -> list[str]:
    """A call's words with its --timeout=SECONDSs stretched."""
    return [
        re.sub(r"^--timeout=(\d+)s$", lambda found: f"--timeout={int(found[1]) * patience()}s", one) for one in words
    ]


class Kubectl:
    """Calls kubectl in one namespace (made on demand) with a kubeconfig and home of its own."""

    def __init__(self, env: dict[str, str], namespace: str = "default") -> None:
        self.env, self.namespace = env, namespace

    def argv(self, *words: str) -> list[str]:
        return ["kubectl", "-n", self.namespace, *patient(words)]

    def run(self, *words: str, stdin: str | bytes = "", check: bool = True, seconds: float = 60) -> str:
        """Standard output of one call; a failure shows both outputs."""
        done = self.full(*words, stdin=stdin, seconds=seconds)
        if check:
            assert done.returncode == 0, f"kubectl {' '.join(words)}: {done.returncode}\n{done.stdout}\n{done.stderr}"
        return done.stdout

    def full(self, *words: str, stdin: str | bytes = "", seconds: float = 60) -> subprocess.CompletedProcess[str]:
        data = stdin.encode() if isinstance(stdin, str) else stdin
        done = subprocess.run(
            self.argv(*words), input=data, capture_output=True, env=self.env, timeout=seconds * patience(), check=False
        )
        return subprocess.CompletedProcess(
            done.args, done.returncode, done.stdout.decode("utf-8", "replace"), done.stderr.decode("utf-8", "replace")
        )

    def object(self, *words: str) -> Any:
        return json.loads(self.run("get", *words, "-o", "json"))

    def apply(self, *objects: dict[str, Any]) -> str:
        many = {"apiVersion": "v1", "kind": "List", "items": list(objects)}
        return self.run("apply", "-f", "-", stdin=json.dumps(many))

    @contextlib.contextmanager
    def start(self, *words: str) -> Iterator[subprocess.Popen[str]]:
        """A call that runs until the block ends (watch, port-forward)."""
        child = subprocess.Popen(
            self.argv(*words),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=self.env,
            text=True,
        )
        try:
            yield child
        finally:
            child.terminate()
            child.communicate(timeout=20)

    def on_terminal(self, *words: str, typed: list[tuple[str, str]], seconds: float = 40) -> str:
        """A call on a terminal: wait for each text, then type the answer; returns all that the terminal showed."""
        pid, master = pty.fork()
        if pid == 0:
            os.execvpe("kubectl", self.argv(*words), self.env)
        shown, end, steps = "", time.monotonic() + seconds * patience(), list(typed)
        try:
            while time.monotonic() < end:
                if not select.select([master], [], [], 0.1)[0]:
                    if steps and steps[0][0] in shown[shown.rfind("\0") + 1 :]:
                        os.write(master, steps.pop(0)[1].encode())
                        shown += "\0"
                    continue
                more = last_read(master)
                if not more:
                    break
                shown += more.decode("utf-8", "replace")
            else:
                os.kill(pid, 9)
                raise AssertionError(f"the terminal session did not end; it showed:\n{shown}")
        finally:
            os.close(master)
            os.waitpid(pid, 0)
        return shown.replace("\0", "")


def last_read(master: int) -> bytes:
    """What a terminal has to read; b"" at its end. The kernel's first EIO may come before the last bytes."""
    for _ in range(2):
        with contextlib.suppress(OSError):
            return os.read(master, 65536)
    return b""


def eventually(what: Callable[[], Any], seconds: float = 30.0, pause: float = 0.1) -> Any:
    """The first true answer of `what`; the last exception or answer is shown when none comes in time."""
    seconds *= patience()
    end = time.monotonic() + seconds
    while True:
        problem: BaseException | None = None
        answer: Any = None
        try:
            answer = what()
        except AssertionError as error:
            problem = error
        if answer:
            return answer
        if time.monotonic() > end:
            raise AssertionError(f"not within {seconds:g} s: {answer!r}") from problem
        time.sleep(pause)


@contextlib.contextmanager
def lab(folder: Path, name: str, *options: str, stdin: str = "") -> Iterator[Kubectl]:
    """A lab for the time of the block, with state, home and kubeconfig in `folder`."""
    env = {
        **os.environ,
        "HOME": str(folder),
        "KUBECONFIG": str(folder / "kubeconfig"),
        "PODWIRE_STATE": str(folder / "labs"),
    }
    up = [str(PODWIRE), "lab", "up", "--name", name, *options]
    done = subprocess.run(up, env=env, input=stdin, capture_output=True, text=True, timeout=300, check=False)
    try:
        assert done.returncode == 0, f"{' '.join(up)}: {done.returncode}\n{done.stdout}\n{done.stderr}"
        yield Kubectl(env)
    finally:
        down = subprocess.run(
            [str(PODWIRE), "lab", "down", "--name", name],
            env=env,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
    assert down.returncode == 0, f"down: {down.stdout}\n{down.stderr}"

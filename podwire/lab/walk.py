"""Walk a lab: type its steps into a shell on a terminal, as a person would, and run its checks.

A line is typed only when the line before is done, which shows as a prompt and then silence, whoever prompts: the shell,
a shell inside a node, one inside a pod, or a here-document asking for more.
"""

from __future__ import annotations

import os
import re
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass

import pexpect

from podwire.lab.labfile import LabFile, Step

_PROMPT = re.compile(r"(?:^|[\r\n])[^\r\n]{0,80}[#$>] $")
_ESCAPES = re.compile(r"\x1b\[[0-9;?]*[a-zA-Z]|\x1b\][^\x07]*\x07|\x1b[=>]")
_QUIET = 0.12


class WalkError(Exception):
    """A step or a check failed; the message holds the step, the line in the file and what was seen."""


@dataclass(frozen=True, slots=True)
class Walked:
    """One step as it went: `output` is what the terminal showed, what was typed included; `seconds` its duration."""

    step: Step
    output: str
    seconds: float


class Terminal:
    """A bash on a terminal of its own, typed into line by line."""

    def __init__(self, env: dict[str, str], show: Callable[[str], None] | None = None) -> None:
        settings = {**env, "PS1": "$ ", "PS2": "> ", "TERM": "dumb", "HISTFILE": "/dev/null", "PROMPT_COMMAND": ""}
        self._child: pexpect.spawn[str] = pexpect.spawn(
            "bash",
            ["--norc", "--noprofile", "--noediting", "-i"],
            env=settings,
            encoding="utf-8",
            codec_errors="replace",
            dimensions=(50, 250),
        )
        self._show = show
        self.until_prompt(20)

    def _read(self, wait: float) -> str:
        try:
            text = _ESCAPES.sub("", self._child.read_nonblocking(65536, timeout=wait))
        except pexpect.TIMEOUT:
            return ""
        except pexpect.EOF:
            raise WalkError("the shell ended before the lab did") from None
        if self._show:
            self._show(text.replace("\r", ""))
        return text

    def until_prompt(self, seconds: float) -> str:
        """What is printed until somebody prompts. Raises WalkError after `seconds`."""
        seen, end = "", time.monotonic() + seconds
        while time.monotonic() < end:
            more = self._read(_QUIET)
            seen += more
            if not more and _PROMPT.search(seen):
                return seen.replace("\r", "")
        raise WalkError(f"no prompt within {seconds:g} s; the terminal showed:\n{seen[-2000:]}")

    def type(self, line: str, seconds: float) -> str:
        """Type one line and return what is printed until the next prompt."""
        self._child.send(line + "\n")
        return self.until_prompt(seconds)

    def type_and_interrupt(self, line: str, seconds: float) -> str:
        """Type one line, let it run for `seconds`, then press Ctrl-C."""
        self._child.send(line + "\n")
        seen, end = "", time.monotonic() + seconds
        while time.monotonic() < end:
            seen += self._read(_QUIET)
        self._child.sendintr()
        return seen.replace("\r", "") + self.until_prompt(20)

    def close(self) -> None:
        self._child.close(force=True)


def _type_step(terminal: Terminal, step: Step, seconds: float) -> str:
    output = ""
    for number, line in enumerate(step.lines, 1):
        if step.interrupt and number == len(step.lines):
            output += terminal.type_and_interrupt(line, step.interrupt)
        else:
            output += terminal.type(line, seconds)
    return output


def _check(step: Step, script: str, output: str, env: dict[str, str]) -> None:
    done = subprocess.run(
        ["bash", "-euxo", "pipefail", "-c", script],
        env={**env, "OUTPUT": output},
        capture_output=True,
        text=True,
        timeout=180,
        check=False,
    )
    if done.returncode:
        raise WalkError(
            f"{step.title!r} (line {step.line}): a check failed with exit code {done.returncode}\n"
            f"--- the step showed\n{output}\n--- the check\n{done.stdout}{done.stderr}"
        )


def walk(
    lab: LabFile,
    *,
    env: dict[str, str] | None = None,
    seconds: float = 120.0,
    before: Callable[[Step], None] = lambda step: None,
    after: Callable[[Walked], None] = lambda walked: None,
    show: Callable[[str], None] | None = None,
) -> list[Walked]:
    """Run a lab's steps and checks in order; `seconds` bounds each typed line. Raises WalkError when one fails."""
    env = dict(os.environ) if env is None else env
    terminal = Terminal(env, show)
    walked = []
    try:
        for step in lab.steps:
            before(step)
            began = time.monotonic()
            output = _type_step(terminal, step, seconds)
            done = Walked(step, output, time.monotonic() - began)
            for script in step.checks:
                _check(step, script, output, env)
            after(done)
            walked.append(done)
    finally:
        terminal.close()
    return walked


def transcribed(lab: LabFile, walked: list[Walked]) -> str:
    """A Markdown page of what the terminal showed, step by step."""
    parts = [f"# {lab.title}: a transcript\n"]
    title = ""
    for done in walked:
        if done.step.title != title:
            title = done.step.title
            parts.append(f"## {title}\n")
        shown = "\n".join(line.rstrip() for line in f"$ {done.output}".rstrip().removesuffix("$").rstrip().splitlines())
        parts.append(f"```text\n{shown}\n```\n")
    return "\n".join(parts)

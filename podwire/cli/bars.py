"""Numbers of addresses and bars of fill, as text."""

from __future__ import annotations

import re

import click

CELLS = 16
_PARTS = " ▏▎▍▌▋▊▉"
_BAR = re.compile(rf"[█▉▊▋▌▍▎▏░]{{{CELLS}}} +(\d+)%")


def amount(count: int) -> str:
    """A number of addresses; from a million million on as 1.8447e+19, as IPv6 pools have it."""
    return str(count) if count < 10**12 else f"{count:.4e}"


def share(count: int, total: int) -> str:
    """`3 (5%)`."""
    return f"{amount(count)} ({percent(count, total)}%)"


def percent(count: int, total: int) -> int:
    return round(100 * count / total) if total else 0


def bar(count: int, total: int) -> str:
    """How full something is: a bar of CELLS characters, and the figure. What is used at all shows at least a sliver,
    and only what is full shows no gap."""
    eighths = CELLS * 8 * count // total if total else 0
    if count:
        eighths = max(1, eighths)
    whole, part = divmod(eighths, 8)
    text = "█" * whole + (_PARTS[part] if part else "")
    return f"{text.ljust(CELLS, '░')} {percent(count, total):>3}%"


def tinted(table: str) -> str:
    """The same text with the bars in colour: green, yellow from 70%, red from 90%."""
    return _BAR.sub(_tint, table)


def _tint(found: re.Match[str]) -> str:
    fill = int(found.group(1))
    return click.style(found.group(0), fg="red" if fill >= 90 else "yellow" if fill >= 70 else "green")

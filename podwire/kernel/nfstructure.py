"""What structure an nf_tables table has, by netlink: names of chains and sets, and how many rules stand in each chain.

Enough to see that somebody has taken a part of it away, without starting a process. Source:
linux/netfilter/nf_tables.h.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from errno import ENOENT

from podwire.kernel.netlink import KernelError, Message, attributes, text
from podwire.kernel.nfelements import FAMILIES, NFGENMSG, ElementSocket

_SUBSYSTEM = 10
_GETCHAIN, _GETRULE, _GETSET = (_SUBSYSTEM << 8 | number for number in (4, 7, 10))
_TABLE = 1
_CHAIN_NAME, _RULE_CHAIN, _SET_NAME = 3, 2, 2


@dataclass(frozen=True, slots=True)
class Structure:
    """`chains`: number of rules by chain. Anonymous sets are left out."""

    chains: dict[str, int] = field(default_factory=dict)
    sets: frozenset[str] = frozenset()


def read(socket: ElementSocket, family: str, table: str) -> Structure:
    """Empty, when there is no such table. Raises KernelError."""
    chains = dict.fromkeys(_names(socket, "chains", _GETCHAIN, family, table, _CHAIN_NAME), 0)
    rules = Counter(_names(socket, "rules", _GETRULE, family, table, _RULE_CHAIN))
    sets = _names(socket, "sets", _GETSET, family, table, _SET_NAME)
    return Structure(
        chains | {name: number for name, number in rules.items() if name in chains},
        frozenset(name for name in sets if not name.startswith("__")),
    )


def _names(socket: ElementSocket, what: str, kind: int, family: str, table: str, named: int) -> list[str]:
    head = NFGENMSG.pack(FAMILIES[family], 0, 0)
    # chains are listed for all tables, whatever is asked
    narrow = b"" if kind == _GETCHAIN else text(_TABLE, table)
    found = []
    try:
        bodies = socket.dump(Message(f"list {what}", kind, 0, head + narrow))
    except KernelError as error:
        if error.errno != ENOENT:
            raise
        return []
    for body in bodies:
        held = attributes(body, NFGENMSG.size)
        if held.get(_TABLE, b"").rstrip(b"\0").decode() == table:
            found.append(held[named].rstrip(b"\0").decode(errors="replace"))
    return found

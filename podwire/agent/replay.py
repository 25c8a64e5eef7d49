"""A dump's journal calculated again, offline, and compared with the state that the agent had."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from enum import Enum
from pathlib import PurePath
from typing import Any

import msgspec

from podwire.agent.datapath import desired
from podwire.agent.journal import TYPES
from podwire.agent.kubenet import PodCidrRoutes
from podwire.calc.routes import RouteCalc
from podwire.render.routing import Names

CALCULATORS: dict[str, type[RouteCalc]] = {"routes": RouteCalc, "podcidr-routes": PodCidrRoutes}


class ReplayError(Exception):
    """The file is no dump, or not one of this release; the message names the field."""


class _Object(msgspec.Struct):
    kind: str
    name: str = ""
    object: msgspec.Raw = msgspec.Raw(b"null")
    in_sync: bool = False


class _Snapshot(msgspec.Struct):
    in_sync: list[str] = []
    objects: list[_Object] = []


class _Journal(msgspec.Struct):
    snapshot: _Snapshot
    updates: list[_Object]


class _Calculation(msgspec.Struct):
    calculator: str
    node: str
    names: dict[str, Any]
    state: dict[str, Any]
    rows: dict[str, Any]
    nat: str
    journal: _Journal


class _Dump(msgspec.Struct):
    calculation: _Calculation


def plain(value: Any) -> Any:
    """Values as JSON has them; sets sorted, keys as texts."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, msgspec.Struct):
        return {name: plain(getattr(value, name)) for name in value.__struct_fields__}
    if isinstance(value, Mapping):
        return {key if isinstance(key, str) else str(key): plain(item) for key, item in value.items()}
    if isinstance(value, set | frozenset):
        return sorted((plain(item) for item in value), key=str)
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, Enum):
        return plain(value.value)
    return str(value) if isinstance(value, PurePath) else value


def calculation(calculator: RouteCalc, node: str, names: Names, journal: Any) -> dict[str, Any]:
    """The part of a dump that can be replayed: what was told, and what came of it."""
    kind = next(name for name, type_ in CALCULATORS.items() if type(calculator) is type_)
    wanted = desired(calculator.state, names)
    return {
        "calculator": kind,
        "node": node,
        "names": plain(names),
        "state": plain(calculator.state),
        "rows": plain(wanted.rows),
        "nat": wanted.nat,
        "journal": journal,
    }


def replay(raw: bytes) -> list[str]:
    """What differs between the dumped state and the journal's, in words; empty when they are equal. Raises
    ReplayError."""
    try:
        dumped = msgspec.json.decode(raw, type=_Dump).calculation
        names = Names(**dumped.names)
    except (msgspec.MsgspecError, TypeError) as error:
        raise ReplayError(f"not a dump of this release: {error}") from error
    if dumped.calculator not in CALCULATORS:
        raise ReplayError(f"calculation.calculator: {dumped.calculator!r} is none of {', '.join(CALCULATORS)}")
    again = recalculated(dumped, names)
    return [
        *differences("state", dumped.state, again["state"]),
        *differences("rows", dumped.rows, again["rows"]),
        *differences("nat", dumped.nat, again["nat"]),
    ]


def recalculated(dumped: _Calculation, names: Names) -> dict[str, Any]:
    """State, rows and nat as they come of the journal. Raises ReplayError."""
    calculator = CALCULATORS[dumped.calculator](dumped.node)
    told: tuple[Callable[[str, Any], None], ...] = (calculator.on_node, calculator.on_pool, calculator.on_block)
    sinks = dict(zip(TYPES, told, strict=True))
    synced = set(dumped.journal.snapshot.in_sync)
    for number, item in enumerate([*dumped.journal.snapshot.objects, *dumped.journal.updates], 1):
        if item.in_sync:
            synced.add(item.kind)
            continue
        if item.kind not in sinks:
            raise ReplayError(f"journal entry {number}: kind {item.kind!r} is none of {', '.join(sinks)}")
        try:
            value = msgspec.json.decode(item.object, type=TYPES[item.kind] | None)
        except msgspec.MsgspecError as error:
            raise ReplayError(f"journal entry {number}, {item.kind} {item.name}: {error}") from error
        sinks[item.kind](item.name, value)
    if synced >= set(TYPES):  # before that the agent calculates nothing
        calculator.flush()
    return calculation(calculator, dumped.node, names, None)


def differences(path: str, dumped: Any, again: Any) -> Iterator[str]:
    """Where two JSON values differ."""
    if isinstance(dumped, dict) and isinstance(again, dict):
        for key in sorted(dumped.keys() | again.keys()):
            where = f"{path}.{key}"
            if key not in again:
                yield f"{where}: dumped {_short(dumped[key])}, not in the journal's state"
            elif key not in dumped:
                yield f"{where}: not dumped, {_short(again[key])} in the journal's state"
            else:
                yield from differences(where, dumped[key], again[key])
    elif dumped != again:
        yield f"{path}: dumped {_short(dumped)}, {_short(again)} in the journal's state"


def _short(value: Any) -> str:
    words = msgspec.json.encode(value).decode()
    return words if len(words) <= 200 else f"{words[:200]}…"

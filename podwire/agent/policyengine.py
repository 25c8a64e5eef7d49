"""Policy in the kernel: keeps `inet podwire_policy` equal to what calculation says and to the pods that are wired.

The engine knows what the kernel holds; a change is elements by netlink, and nothing is listed. First comes what is new
and what is changed, in one transaction; what nothing leads to any more goes in a later one. After a refusal the table
is in doubt: it is read back and put right with the next change. As long as that fails, what is there stays in force.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from podwire.agent.elements import OwnedElements, tell_repair
from podwire.agent.policynames import Names, decisions
from podwire.calc.verdicts import UNKNOWN, Governed, Pod, PolicyChanges, PolicyState, Range, RuleRef
from podwire.kernel import nfstructure
from podwire.kernel.netlink import KernelError
from podwire.kernel.nfelements import Element, ElementSocket, SetName
from podwire.kernel.tables import NftProgram
from podwire.model.policy import Direction
from podwire.render import nft_policy, policyrows
from podwire.render.nft_policy import Slot
from podwire.render.policyrows import Place, Value

log = logging.getLogger(__name__)

SPARE = 2
"""Slots of each shape in use that are made beforehand."""
GRACE_SECONDS = 0.01
"""What a packet may have read is left so long after nothing leads to it."""
_LARGE = 20_000
SELDOM_SECONDS = 300.0
"""A table of so many elements is compared at most so often, unless the kernel has refused something."""
_AT_ONCE = 3_000
"""Elements that one transaction surely takes, whatever the socket's buffer."""
_FAMILY, _TABLE = nft_policy.TABLE.split()
_EMPTY = PolicyState()

Held = dict[str, dict[Place, Value]]
Where = tuple[str, Place]
Wanted = dict[Where, Value | None]
Elements = dict[SetName, list[Element]]


@dataclass(frozen=True, slots=True)
class Binding:
    """A pod's wire: its interface on the node, and its bare addresses. `pod` None: nobody's whom Kubernetes knows;
    `free`: the API was asked for the pod and has none of that name. On a bridge (its name) the port has `mac` on the
    node's side."""

    interface: str
    pod: Pod | None
    addresses: tuple[str, ...] = ()
    bridge: str = ""
    mac: str = ""
    free: bool = False


@dataclass
class Change:
    """Elements on their way. `fresh` are in slots that nobody has yet; `late` go when nothing leads to them."""

    drops: dict[Where, Value] = field(default_factory=dict)
    puts: dict[Where, Value] = field(default_factory=dict)
    fresh: dict[Where, Value] = field(default_factory=dict)
    late: dict[Where, Value] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Left:
    """What nothing leads to since (monotonic): rows of classes, whole slots, and the numbers of the classes."""

    since: float
    rows: dict[Where, Value]
    slots: list[Slot]
    numbers: set[int]


class PolicyEngine:
    """Threads may bind and unbind while another one applies. `strict`: connections that stand are judged again."""

    def __init__(
        self, program: NftProgram, sockets: Callable[[], ElementSocket], prefix: str, *, strict: bool = False
    ) -> None:
        self._program = program
        self._sockets = sockets
        self._prefix = prefix
        self._strict = strict
        self.guard = threading.RLock()
        self._held: Held | None = None  # None: in doubt
        self.names = Names()
        self._adopted = False
        self._logged: set[int] = set()  # Log rules whose chains are made
        self._state = _EMPTY
        self._pods: dict[Pod, Governed] = {}
        self._ranges: set[Range] = set()  # that the kernel holds, if it is not in doubt
        self._bindings: dict[str, Binding] = {}
        self._ports = OwnedElements(nft_policy.BRIDGE, [nft_policy.PORTS], nft_policy.bridge, program, sockets)
        self._bridged = False
        self._left: list[Left] = []
        self._read_at = 0.0
        self.in_force = False
        self.on_doubt: Callable[[], None] = lambda: None  # somebody has to apply again

    # -- what calculation says --------------------------------------------------------------------------------------

    def doubt(self) -> None:
        """Somebody may have changed the table: the next `apply` reads it."""
        with self.guard:
            self._held = None

    def suspect(self) -> None:
        """The same for no reason but that some time has passed. A large table is not read again and again."""
        with self.guard:
            size = sum(map(len, self._held.values())) if self._held is not None else 0
            if size < _LARGE or time.monotonic() - self._read_at > SELDOM_SECONDS:
                self._held = None

    def apply(self, state: PolicyState, changes: PolicyChanges) -> list[KernelError]:
        """Make it so; what failed. `state` must not change meanwhile."""
        with self.guard:
            try:
                self._state = state
                if self._held is None:
                    self._renew()
                elif changes or changes.retired:
                    self._step(self._held, changes)
            except KernelError as error:
                self._held = None
                return [error]
            return []

    def _step(self, held: Held, changes: PolicyChanges) -> None:
        state, names, by_table = self._state, self.names, self.names.slots.by_table
        self.settle(GRACE_SECONDS)
        used = self._used()
        former = {n: slot for n, slot in by_table.items() if n not in used or not self._stays(n)}
        for n in former:
            del by_table[n]
        new = sorted(used - by_table.keys())
        slots = self._take(new)
        self._log_chains(held, self._told_decisions(changes, new))
        wanted: Wanted = {}
        late: set[Where] = set()
        for n in changes.tables.union(new):
            if n in by_table:
                slot = by_table[n]
                wanted |= dict.fromkeys(((name, place) for name in slot.maps() for place in held.get(name, ())), None)
                wanted |= {(cell.map, cell.place): cell.value for cell in names.table(n, state.tables[n])}
        for n, rows in changes.rows.items():
            for at, match in rows if n in by_table and n not in changes.tables and n not in new else ():
                decision = state.tables[n].stages[at].rows.get(match)
                for cell in names.row(n, at, match, decision):
                    wanted[cell.map, cell.place] = cell.value if decision is not None else None
                    if decision is None and match.number in changes.retired:
                        late.add((cell.map, cell.place))
        for address in changes.addresses:
            target, place, value = names.address(state, address)
            wanted[target, place] = value
        moved = set(former)
        pods = changes.pods | {pod for pod, tables in state.pods.items() if moved and not moved.isdisjoint(tables)}
        for pod in pods:
            if pod in state.pods:
                self._pods[pod] = state.pods[pod]
            else:
                self._pods.pop(pod, None)
        wanted |= self._bound(one for one in self._bindings.values() if one.pod in pods)
        change = _difference(held, wanted, late, {name for slot in slots for name in slot.maps()})
        self._turn_ranges(held, change, changes.ranges)
        self._send(held, change)
        self._ranges = self._ranges - changes.ranges | (changes.ranges & state.ranges.keys())
        self._leave(change.late, former.values(), names.numbers.retire(changes.retired))

    def _turn_ranges(self, held: Held, change: Change, ranges: Iterable[Range]) -> None:
        """A range goes and comes whole, start and end, and they come in order: what the kernel would otherwise take for
        an overlap with one that goes in the same transaction."""
        state, there = self._state, self._ranges
        for over in ranges:
            if over in there:
                for cell in policyrows.range_cells(over, UNKNOWN):
                    change.drops[cell.map, cell.place] = held[cell.map][cell.place]
        for over in sorted(over for over in ranges if over in state.ranges):
            for cell in self.names.range(over, state.ranges[over]):
                change.puts[cell.map, cell.place] = cell.value

    def _stays(self, n: int) -> bool:
        return n in self._state.tables and self.names.slots.fits(n, self._state.tables[n])

    def _used(self) -> set[int]:
        """Tables that pods of this node are under; those of staged policies are not among them."""
        tables = self._state.tables
        found = {n for governed in self._state.pods.values() for n in governed if n is not None}
        return found | {other for n in found for _, _, other in tables[n].by_source_port}

    def _told_decisions(self, changes: PolicyChanges, new: Iterable[int]) -> set[int]:
        tables, used = self._state.tables, self.names.slots.by_table
        touched = [n for n in changes.tables.union(new) if n in used]
        found = {each for n in touched for each in self.names.news(decisions(tables[n]))}
        for n, rows in changes.rows.items():
            if n in used and n not in touched:
                told = (tables[n].stages[at].rows.get(match) for at, match in rows)
                found |= self.names.news(decision for decision in told if decision is not None)
        return found

    def _take(self, tables: Iterable[int]) -> list[Slot]:
        """Slots for tables that have none; those that are not there yet are made. Raises KernelError."""
        taken = [self.names.slots.take(n, self._state.tables[n]) for n in tables]
        if new := [slot for slot, unmade in taken if unmade]:
            self._program.run("".join(map(nft_policy.slot, new)))
        return [slot for slot, _ in taken]

    def _log_chains(self, held: Held, numbers: set[int]) -> None:
        """What Log rules do, where they are new. Raises KernelError."""
        new = sorted(numbers - self._logged)
        if not new:
            return
        self._program.run("".join(map(nft_policy.log, new)))
        cells = [policyrows.log_cell(number, nft_policy.log_chain(number)) for number in new]
        self._send(held, _difference(held, {(cell.map, cell.place): cell.value for cell in cells}))
        self._logged.update(new)

    def _send(self, held: Held, change: Change) -> None:
        """Raises KernelError; what was sent before is noted."""
        fresh = [*change.fresh.items()]
        for start in range(0, len(fresh), _AT_ONCE):
            part = dict(fresh[start : start + _AT_ONCE])
            if start + _AT_ONCE >= len(fresh) and len(part) + len(change.puts) + len(change.drops) <= _AT_ONCE:
                change.puts |= part  # all of a small change at once
            else:
                self._transact(held, {}, part)
        adds = [(where, value) for where, value in change.puts.items() if where not in change.drops]
        if len(adds) + len(change.drops) > 5 * _AT_ONCE:  # too much for one: what is only more goes ahead
            for start in range(0, len(adds), _AT_ONCE):
                self._transact(held, {}, dict(adds[start : start + _AT_ONCE]))
            change.puts = {where: value for where, value in change.puts.items() if where in change.drops}
        self._transact(held, change.drops, change.puts)

    def _transact(self, held: Held, drops: dict[Where, Value], puts: dict[Where, Value]) -> None:
        if drops or puts:
            self._sockets().update(drops=_elements(drops), puts=_elements(puts))
            _note(held, drops, puts)

    def _leave(self, rows: dict[Where, Value], slots: Iterable[Slot], numbers: set[int]) -> None:
        """Nothing leads there any more, but a packet may be on its way."""
        left = Left(time.monotonic(), rows, list(slots), numbers)
        if left.rows or left.slots or left.numbers:
            self._left.append(left)

    def settle(self, seconds: float = 0.0) -> None:
        """Take away what nothing has led to for so long. Raises KernelError."""
        with self.guard:
            while self._held is not None and self._left and time.monotonic() - self._left[0].since >= seconds:
                left, held = self._left[0], self._held
                rows = {where: value for where, value in left.rows.items() if where[1] in held.get(where[0], {})}
                try:
                    self._transact(held, rows, {})
                    self._clear(held, left.slots)
                except KernelError:
                    self._held = None
                    self.on_doubt()
                    raise
                self.names.numbers.free(left.numbers)
                del self._left[0]

    def _clear(self, held: Held, gone: list[Slot]) -> None:
        """Slots that nothing leads to any more: emptied, and spare. Raises KernelError."""
        self._sockets().flush(_set(name) for slot in gone for name in slot.maps() if held.get(name))
        for slot in gone:
            for name in slot.maps():
                held[name] = {}
            self.names.slots.keep(slot)

    def stock(self) -> None:
        """Make spare slots of the shapes in use, off the way of changes; remove those too many. Raises KernelError."""
        with self.guard:
            self.settle(GRACE_SECONDS)
            if self._held is None:
                return
            slots = self.names.slots
            used = {(slot.direction, slot.shape) for slot in slots.by_table.values()}
            new = [slots.fresh(*kind) for kind in sorted(used) for _ in range(SPARE - len(slots.spare.get(kind, ())))]
            if new:
                self._program.run("".join(map(nft_policy.slot, new)))
                for slot in new:
                    slots.keep(slot)
            for kind, spare in slots.spare.items():
                while len(spare) > (4 * SPARE if kind in used else SPARE):
                    self._program.run(nft_policy.without(spare[0]))
                    for name in spare.pop(0).maps():
                        self._held.pop(name, None)

    def logged(self) -> dict[int, tuple[RuleRef, ...]]:
        """Log rules by the number that the kernel says."""
        return self.names.logs.rules

    def denied(self) -> dict[str, int]:
        """Packets denied so far, by direction. Nothing, when the kernel does not tell."""
        found = {}
        try:
            for way, names in nft_policy.refused().items():
                counts = (self._sockets().counters(_set(name)) for name in names)
                found[str(way)] = sum(packets for each in counts for packets, _ in each.values())
        except KernelError:
            return {}
        return found

    # -- what is there ----------------------------------------------------------------------------------------------

    def _renew(self) -> None:
        """Read the table, and make it what is wanted; silent when it is. Raises KernelError."""
        state, names = self._state, self.names
        version = nft_policy.version(self._prefix, strict=self._strict)
        seen = nfstructure.read(self._sockets(), _FAMILY, _TABLE)
        expected = nft_policy.rules(self._prefix, strict=self._strict)
        whole = version in seen.chains and all(seen.chains.get(name) == n for name, n in expected.items())
        whole = whole and seen.sets >= set(nft_policy.MAPS)
        if not whole:
            self._program.run(nft_policy.structure(self._prefix))
        slots = [slot for chain in seen.chains if (slot := nft_policy.slot_of(chain)) is not None]
        for slot in slots:
            names.slots.found(slot)
        sound = {slot for slot in slots if _sound(slot, seen)}
        held = self._read([*nft_policy.MAPS, *(name for slot in slots if slot in sound for name in slot.maps())])
        before = {target: dict(cells) for target, cells in held.items()} if whole else None
        self._pods = dict(state.pods)
        if not self._adopted:
            self._adopt(held)
            self._adopted = True
        used = self._used()
        mine = {n: slot for n, slot in names.slots.by_table.items() if n in used and self._stays(n)}
        names.slots.by_table = mine
        if broken := [slot for slot in mine.values() if slot not in sound]:
            self._program.run("".join(map(nft_policy.slot, broken)))
            held |= self._read([name for slot in broken for name in slot.maps()])
        strays = sound - set(mine.values())
        names.slots.spare = {}
        for slot in strays:
            if not any(held[name] for name in slot.maps()):
                names.slots.keep(slot)
        busy = [slot for slot in strays if any(held[name] for name in slot.maps())]
        fresh = self._take(sorted(used - mine.keys()))
        for slot in fresh:
            held |= {name: held.get(name, {}) for name in slot.maps()}
        logs = {each for n in used for each in names.news(decisions(state.tables[n]))}
        self._logged = {
            each for each in logs if seen.chains.get(nft_policy.log_chain(each)) == 1 and _leads(held, each)
        }
        self._log_chains(held, logs)
        wanted = self._whole()
        known = set(nft_policy.MAPS) - {"logs", "net4", "net6"} | {
            name for slot in names.slots.by_table.values() for name in slot.maps()
        }
        for target in known:
            for place in held.get(target, ()):
                wanted.setdefault((target, place), None)
        change = _difference(held, wanted, (), {name for slot in fresh for name in slot.maps()})
        self._whole_ranges(held, change)
        if before is not None:
            tell_repair(nft_policy.TABLE, _elements(change.drops), _elements(change.puts))
        self._late(change)
        self._send(held, change)
        if not whole:
            stale = [chain for chain in seen.chains if chain.startswith("version_") and chain != version]
            away = "".join(f"delete chain {nft_policy.TABLE} {chain}\n" for chain in stale)
            self._program.run(away + nft_policy.hooks(self._prefix, strict=self._strict))
        self._open_ports()
        self._read_at = time.monotonic()
        self._held, self._ranges, self.in_force = held, set(state.ranges), True
        for left in self._left:
            names.numbers.free(left.numbers)
        self._left = []
        nobodys = {peer for where in change.late if (peer := policyrows.peer_of(*where)) is not None}
        names.numbers.hold(nobodys)
        self._leave(change.late, busy, nobodys)

    def _whole_ranges(self, held: Held, change: Change) -> None:
        """The ranges that are not as they shall be; and places of the maps that are no part of one."""
        there, state, number = _ranges(held), self._state, self.names.numbers
        self._ranges = set(there)
        wanted = {over: policyrows.number(number(peer)) for over, peer in state.ranges.items()}
        sound = {(cell.map, cell.place) for over in there for cell in policyrows.range_cells(over, UNKNOWN)}
        for target in ("net4", "net6"):
            for place, value in held[target].items():
                if (target, place) not in sound:
                    change.drops[target, place] = value
        self._turn_ranges(held, change, [o for o in there.keys() | wanted.keys() if there.get(o) != wanted.get(o)])

    def _late(self, change: Change) -> None:
        """Rows of numbers that no class has go when no address has them any more."""
        used = {self.names.numbers(peer) for peer in (*self._state.addresses.values(), *self._state.ranges.values())}
        for where, value in list(change.drops.items()):
            peer = policyrows.peer_of(*where)
            if peer is not None and peer not in used and where not in change.puts:
                change.late[where] = value
                del change.drops[where]

    def _whole(self) -> Wanted:
        """Everything that the table shall hold."""
        state, names = self._state, self.names
        wanted: Wanted = {}
        for address in state.addresses:
            target, place, value = names.address(state, address)
            wanted[target, place] = value
        for n in names.slots.by_table:
            wanted |= {(cell.map, cell.place): cell.value for cell in names.table(n, state.tables[n])}
        return wanted | self._bound(self._bindings.values())

    def _adopt(self, held: Held) -> None:
        """Numbers and slots that a former life gave to the same things."""
        state, names = self._state, self.names
        seen = []
        for address, peer in state.addresses.items():
            target, place = policyrows.address_place(address)
            if isinstance(value := held[target].get(place), bytes):
                seen.append((peer, policyrows.number_of(value)))
        for over, peer in state.ranges.items():
            first = next(policyrows.range_cells(over, 0))
            if isinstance(value := held[first.map].get(first.place), bytes):
                seen.append((peer, policyrows.number_of(value)))
        names.numbers.adopt(seen)
        taken: set[Slot] = set()
        for one in self._bindings.values():
            tables = state.pods.get(one.pod) if one.pod is not None else None
            for way, n in ((Direction.INGRESS, tables.ingress), (Direction.EGRESS, tables.egress)) if tables else ():
                for target, place in _places(one, way):
                    verdict = held[target].get(place)
                    slot = nft_policy.slot_of(verdict.removeprefix("goto ")) if isinstance(verdict, str) else None
                    if n is not None and slot is not None and slot not in taken and n not in names.slots.by_table:
                        names.slots.by_table[n] = slot
                        taken.add(slot)
                        self._adopt_sources(held, n, slot, taken)
        for one in self._bindings.values():
            if one.pod is not None and one.pod not in state.pods and self._was_free(one, held):
                self._bindings[one.interface] = Binding(
                    one.interface, one.pod, one.addresses, one.bridge, one.mac, free=True
                )

    def _adopt_sources(self, held: Held, n: int, slot: Slot, taken: set[Slot]) -> None:
        """The slots that a slot's source ports lead to."""
        table, by_table = self._state.tables[n], self.names.slots.by_table
        for first, last, other in table.by_source_port if slot.shape.startswith("s") else ():
            cell = next(policyrows.source_cells(slot, first, last, slot))
            verdict = held.get(cell.map, {}).get(cell.place)
            found = nft_policy.slot_of(verdict.removeprefix("goto ")) if isinstance(verdict, str) else None
            if found is not None and found not in taken and other not in by_table:
                by_table[other] = found
                taken.add(found)

    def _was_free(self, one: Binding, held: Held) -> bool:
        places = [where for way in Direction for where in _places(one, way)]
        return all(held[target].get(place) == "return" for target, place in places)

    def _read(self, targets: Iterable[str]) -> Held:
        wire = self._sockets()
        return {
            target: {Place(e.key, e.end, e.closing): e.verdict or e.data for e in wire.elements(_set(target))}
            for target in targets
        }

    # -- what is wired ----------------------------------------------------------------------------------------------

    def restore(self, bindings: Iterable[Binding]) -> None:
        """The pods that are wired when the agent starts."""
        with self.guard:
            self._bindings = {one.interface: one for one in bindings}

    @contextmanager
    def binding(self, one: Binding) -> Iterator[tuple[Elements, Elements]]:
        """Elements to delete and to add so that the pod is governed; the caller sends them, in its own transaction,
        before the end. Raises KernelError."""
        with self.guard:
            former = self._bindings.get(one.interface)
            self._bindings[one.interface] = one
            try:
                if one.bridge and self.in_force:
                    self._open_port(one)
                with self._alone([one] if former is None else [former, one]) as elements:
                    yield elements
            except BaseException:
                if former is None:
                    del self._bindings[one.interface]
                else:
                    self._bindings[one.interface] = former
                self._held = None
                self.on_doubt()
                raise

    def bind(self, one: Binding) -> None:
        """In a transaction of its own. Raises KernelError."""
        with self.binding(one) as (drops, puts):
            self._sockets().update(drops=drops, puts=puts)

    @contextmanager
    def unbinding(self, interface: str) -> Iterator[tuple[Elements, Elements]]:
        """The opposite of `binding`. Raises KernelError."""
        with self.guard:
            one = self._bindings.pop(interface, None)
            if one is None:
                yield {}, {}
                return
            if one.bridge and self._bridged:
                self._ports.drop(interface)
            try:
                with self._alone([one]) as elements:
                    yield elements
            except KernelError:
                self._held = None  # somebody else took them
                self.on_doubt()
                raise

    def unbind(self, interface: str) -> None:
        """In a transaction of its own. Absent is fine. Raises KernelError."""
        with self.unbinding(interface) as (drops, puts):
            self._sockets().update(drops=drops, puts=puts)

    def bound(self) -> dict[str, Binding]:
        with self.guard:
            return dict(self._bindings)

    def knows(self, pod: Pod) -> bool:
        """Whether the kernel holds the tables of the pod."""
        return self.in_force and pod in self._pods

    @contextmanager
    def _alone(self, bindings: Iterable[Binding]) -> Iterator[tuple[Elements, Elements]]:
        if not self.in_force:
            yield {}, {}
            return
        held = self._held if self._held is not None else self._read(nft_policy.MAPS)
        change = _difference(held, self._bound(bindings))
        yield _elements(change.drops), _elements(change.puts)
        _note(held, change.drops, change.puts)

    def _bound(self, bindings: Iterable[Binding]) -> Wanted:
        """Where these are wired: what shall be there as things stand now."""
        wanted: Wanted = {}
        by_address = {address: one for one in self._bindings.values() if one.bridge for address in one.addresses}
        bridges = {one.bridge for one in self._bindings.values() if one.bridge}
        for one in bindings:
            now = self._bindings.get(one.interface)
            for way in Direction:
                for target, place in _places(one, way):
                    owner = by_address.get(policyrows.address_of(place)) if one.bridge else now
                    wanted[target, place] = self._verdict(owner, way)
            name = policyrows.interface_place(one.bridge or one.interface)
            if one.bridge:
                wanted["bridges", name] = b"" if one.bridge in bridges else None
            elif not one.interface.startswith(self._prefix):
                wanted["others", name] = b"" if now is not None and not now.bridge else None
        return wanted

    def _verdict(self, one: Binding | None, way: Direction) -> str | None:
        if one is None:
            return None
        governed = self._pods.get(one.pod) if one.pod is not None else Governed()
        if governed is None:
            return "return" if one.free else "drop"
        return self.names.verdict(governed.egress if way is Direction.EGRESS else governed.ingress)

    def _open_port(self, one: Binding) -> None:
        """From now on the bridge hands the pod's frames to the node."""
        if self._bridged:
            self._ports.put(one.interface, frozenset({nft_policy.port_row(one.interface, one.mac)}))
        else:
            self._open_ports()

    def _open_ports(self) -> None:
        ports = [each for each in self._bindings.values() if each.bridge]
        rows = {each.interface: frozenset({nft_policy.port_row(each.interface, each.mac)}) for each in ports}
        if ports:
            self._ports.restore(rows)
            self._bridged = True


def remove(program: NftProgram) -> None:
    """Policy is not enforced (any more). Raises KernelError."""
    for table in (nft_policy.TABLE, nft_policy.BRIDGE):
        if program.read(*table.split()) is not None:
            program.run(f"delete table {table}\n")


def _leads(held: Held, number: int) -> bool:
    """Whether the map of logs has this one."""
    cell = policyrows.log_cell(number, nft_policy.log_chain(number))
    return held[cell.map].get(cell.place) == cell.value


def _places(one: Binding, way: Direction) -> list[Where]:
    """Where a pod's wire leads to its table."""
    name = str(way)
    if not one.bridge:
        return [(name, policyrows.interface_place(one.interface))]
    found = (policyrows.address_place(address) for address in one.addresses)
    return [(f"{name}{target[-1]}", place) for target, place in found]


def _difference(held: Held, wanted: Wanted, late: Iterable[Where] = (), fresh: Iterable[str] = ()) -> Change:
    """What must be done so that each place has the value that it is wanted to have (None: nothing)."""
    change, later, unused = Change(), set(late), set(fresh)
    for where, value in wanted.items():
        target, place = where
        former = held.setdefault(target, {}).get(place)
        if former == value:
            continue
        if former is not None:
            (change.late if where in later and value is None else change.drops)[where] = former
        if value is not None:
            (change.fresh if target in unused and former is None else change.puts)[where] = value
    return change


def _ranges(held: Held) -> dict[Range, Value]:
    """The ranges that maps of intervals hold: what starts somewhere and ends before the next one."""
    found = {}
    for target, width in (("net4", 32), ("net6", 128)):
        places = sorted(held.get(target, ()), key=lambda place: (place.key, not place.closing))
        for place, follower in zip(places, [*places[1:], None], strict=False):
            if not place.closing and (follower is None or follower.closing):
                first = int.from_bytes(place.key)
                last = int.from_bytes(follower.key) - 1 if follower is not None else (1 << width) - 1
                found[Range(width, first, last)] = held[target][place]
    return found


def _note(held: Held, drops: dict[Where, Value], puts: dict[Where, Value]) -> None:
    for target, place in drops:
        held[target].pop(place, None)
    for (target, place), value in puts.items():
        held[target][place] = value


def _set(name: str) -> SetName:
    return SetName(_FAMILY, _TABLE, name)


def _elements(cells: dict[Where, Value]) -> Elements:
    found: Elements = {}
    for (target, place), value in cells.items():
        data, verdict = (value, "") if isinstance(value, bytes) else (b"", value)
        found.setdefault(_set(target), []).append(Element(place.key, data, place.end, verdict, place.closing))
    return found


def _sound(slot: Slot, seen: nfstructure.Structure) -> bool:
    chains = nft_policy.slot_rules(slot)
    return all(seen.chains.get(name) == n for name, n in chains.items()) and seen.sets >= set(slot.maps())

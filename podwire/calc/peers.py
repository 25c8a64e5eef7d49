"""Who is at which address, and by which marks rules know them.

    pods ──► groups of pods alike ─┐
    network sets ──────────────────┼─► marks of each address and prefix ──► `settle`
    nodes, endpoint slices ────────┘        (only those that some rule asks for)

Pods with the same namespace, labels, service account and named ports form one group: selectors look at the group, not
at its pods. An address may have several holders (an old pod and a new one) and has the marks of all.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import NamedTuple

from podwire.calc.clauses import Asked, Named, Nets, Port, Ports, Service
from podwire.calc.prefixes import NONE, Marks, Moved, Prefixes
from podwire.calc.selection import Selection
from podwire.calc.verdicts import Pod
from podwire.model.address import Cidr, format_ip, parse_ip
from podwire.model.policy import Over, Peers

Labels = Mapping[str, str]
NamedPorts = tuple[tuple[str, int, int], ...]
"""Name, protocol, number."""


class Holder:
    """Something with addresses or prefixes; `marks` are those that it gives them."""

    __slots__ = ("marks",)

    def __init__(self) -> None:
        self.marks: Marks = NONE

    def addresses(self) -> Iterator[str]:
        yield from ()

    def prefixes(self) -> Iterator[Cidr]:
        yield from ()


class Group(Holder):
    """Pods that no selector and no port name can tell apart. `labels` are the effective ones."""

    __slots__ = ("key", "labels", "pods", "ports")

    def __init__(self, key: GroupKey, labels: Labels, ports: NamedPorts) -> None:
        super().__init__()
        self.key, self.labels, self.ports = key, labels, ports
        self.pods: dict[Pod, tuple[str, ...]] = {}

    def addresses(self) -> Iterator[str]:
        for addresses in self.pods.values():
            yield from addresses

    def named(self, name: str) -> Ports:
        return frozenset((protocol, number) for each, protocol, number in self.ports if each == name)


class GroupKey(NamedTuple):
    namespace: str
    account: str
    labels: frozenset[tuple[str, str]]
    ports: NamedPorts


class Set(Holder):
    """A network set, a node, or the prefixes that a rule lists."""

    __slots__ = ("_addresses", "_prefixes", "labels")

    def __init__(self, labels: Labels, addresses: tuple[str, ...], prefixes: Nets) -> None:
        super().__init__()
        self.labels, self._addresses, self._prefixes = labels, addresses, prefixes

    def addresses(self) -> Iterator[str]:
        return iter(self._addresses)

    def prefixes(self) -> Iterator[Cidr]:
        return iter(self._prefixes)


class Slice(NamedTuple):
    """An endpoint slice: the same ports at each address."""

    service: Service
    addresses: tuple[str, ...]
    ports: frozenset[Port]


class Peerage:
    """All peers. Marks are handed out by `ask` and taken back by `drop`; each must be asked for as often as dropped."""

    def __init__(self) -> None:
        self.groups: dict[GroupKey, Group] = {}
        self.pods: dict[Pod, Group] = {}
        self._with_ports: dict[NamedPorts, set[Group]] = {}
        self._holders: dict[str, Holder | list[Holder]] = {}
        self._prefixed: dict[Cidr, list[Holder]] = {}
        self._prefixes = Prefixes()
        self._endpoints: Selection[Holder] = Selection()
        self._nodes: Selection[Holder] = Selection()
        self._sets: dict[object, Set] = {}
        self._slices: dict[object, Slice] = {}
        self._of_service: dict[Service, set[object]] = {}
        self._serving: dict[Service, dict[str, Holder]] = {}  # asked-for services: their addresses' holders
        self._marks: dict[Asked | tuple[Named | Service, Ports], int] = {}
        self._asking: dict[Asked, int] = {}
        self._behind: dict[int, tuple[Named | Service, Ports]] = {}
        self._nets: dict[Nets, Set] = {}
        self._names: dict[str, int] = {}
        self._last = 0
        self._own: dict[str, Marks] = {}  # addresses with marks of their own
        self._near: dict[tuple[int, int], set[str]] = {}  # width, number >> 8 → addresses with marks of their own
        self._dirty: set[str] = set()
        self._dirty_prefixes: set[Cidr] = set()

    # -- marks ---------------------------------------------------------------------------------------------------------

    def mark(self, asked: Asked) -> int:
        """The mark of what is asked for."""
        return self._marks[asked]

    def behind(self, marks: Marks, what: Named | Service) -> Ports:
        """The numbers behind a name or service for somebody with these marks."""
        found = [self._behind[mark] for mark in marks if mark in self._behind]
        return frozenset[Port]().union(*(ports for each, ports in found if each == what))

    def numbers(self, name: Named) -> dict[int, Ports]:
        """All that there are or were behind a name, by their marks."""
        return {mark: ports for mark, (each, ports) in self._behind.items() if each == name}

    def ask(self, asked: Asked) -> None:
        self._asking[asked] = self._asking.get(asked, 0) + 1
        if self._asking[asked] > 1:
            return
        mark = self._number(asked)
        if isinstance(asked, Peers):
            selection = self._selection(asked)
            selection.watch(asked.selector)
            for holder in selection.things(asked.selector):
                self._remark(holder, holder.marks | {mark})
        elif isinstance(asked, Named):
            self._names[asked.name] = mark
            for group in self._naming(asked.name):
                self._remark(group, group.marks | self._port_marks(group, asked.name))
        elif isinstance(asked, Service):
            self._serving[asked] = {}
            self._serve(asked)
        else:
            self._nets[asked] = listed = Set({}, (), asked)
            self._hold(listed)
            self._remark(listed, frozenset((mark,)))

    def drop(self, asked: Asked) -> None:
        self._asking[asked] -= 1
        if self._asking[asked]:
            return
        del self._asking[asked]
        mark = self._marks.pop(asked)
        if isinstance(asked, Peers):
            selection = self._selection(asked)
            for holder in selection.things(asked.selector):
                self._remark(holder, holder.marks - {mark})
            selection.forget(asked.selector)
        elif isinstance(asked, Named):
            del self._names[asked.name]
            gone = self._forget_numbers(asked) | {mark}
            for group in self._naming(asked.name):
                self._remark(group, group.marks - gone)
        elif isinstance(asked, Service):
            for holder in self._serving.pop(asked).values():
                self._remark(holder, NONE)
                self._release(holder)
            self._forget_numbers(asked)
        else:
            listed = self._nets.pop(asked)
            self._remark(listed, NONE)
            self._release(listed)

    def _naming(self, name: str) -> Iterator[Group]:
        """The groups that have a port of this name."""
        for ports, groups in self._with_ports.items():
            if any(each == name for each, _, _ in ports):
                yield from groups

    def _selection(self, peers: Peers) -> Selection[Holder]:
        return self._endpoints if peers.over is Over.ENDPOINTS else self._nodes

    def _number(self, what: Asked | tuple[Named | Service, Ports]) -> int:
        if what not in self._marks:
            self._last += 1
            self._marks[what] = self._last
        return self._marks[what]

    def _numbered(self, what: Named | Service, ports: Ports) -> int:
        mark = self._number((what, ports))
        self._behind[mark] = (what, ports)
        return mark

    def _forget_numbers(self, what: Named | Service) -> Marks:
        gone = frozenset(mark for mark, (each, _) in self._behind.items() if each == what)
        for mark in gone:
            del self._marks[self._behind.pop(mark)]
        return gone

    def _port_marks(self, group: Group, name: str) -> Marks:
        ports = group.named(name)
        return frozenset((self._names[name], self._numbered(Named(name), ports))) if ports else NONE

    # -- events --------------------------------------------------------------------------------------------------------

    def put_pod(self, pod: Pod, key: GroupKey, labels: Labels | None, addresses: tuple[str, ...]) -> Group:
        """`labels` are needed for a key that no group has yet (`groups`)."""
        group = self.groups.get(key)
        before = self.pods.get(pod)
        if before is not None and before is group and group.pods[pod] == addresses:
            return group
        if before is not None:
            self.take_pod(pod, keep=group)
        if group is None:
            assert labels is not None
            group = self.groups[key] = Group(key, labels, key.ports)
            self._with_ports.setdefault(key.ports, set()).add(group)
            self._endpoints.put(group, labels)
            group.marks = self._marks_of(group)
        self.pods[pod] = group
        group.pods[pod] = addresses
        for address in addresses:
            self._hold_address(address, group)
        return group

    def take_pod(self, pod: Pod, keep: Group | None = None) -> None:
        group = self.pods.pop(pod, None)
        if group is None:
            return
        for address in group.pods.pop(pod):
            self._release_address(address, group)
        if not group.pods and group is not keep:
            del self.groups[group.key]
            self._with_ports[group.ports].discard(group)
            if not self._with_ports[group.ports]:
                del self._with_ports[group.ports]
            self._endpoints.take(group)

    def put_set(self, key: object, labels: Labels, nets: Nets) -> None:
        self._replace(key, Set(labels, (), nets), self._endpoints)

    def put_node(self, key: object, labels: Labels, addresses: tuple[str, ...]) -> None:
        self._replace(key, Set(labels, addresses, ()), self._nodes)

    def take_set(self, key: object) -> None:
        self._replace(key, None, self._endpoints)

    def take_node(self, key: object) -> None:
        self._replace(key, None, self._nodes)

    def _replace(self, key: object, new: Set | None, selection: Selection[Holder]) -> None:
        old = self._sets.pop(key, None)
        if new is not None:
            self._sets[key] = new
            selection.put(new, new.labels)
            new.marks = self._selected(new.labels, selection)
            self._hold(new)
        if old is not None:
            selection.take(old)
            self._release(old)

    def put_slice(self, name: object, found: Slice | None) -> None:
        old = self._slices.pop(name, None)
        if found is not None:
            self._slices[name] = found
            self._of_service.setdefault(found.service, set()).add(name)
        if old is not None and (found is None or old.service != found.service):
            self._of_service[old.service].discard(name)
            if not self._of_service[old.service]:
                del self._of_service[old.service]
        for service in {each.service for each in (old, found) if each is not None}:
            if service in self._serving:
                self._serve(service)

    def _serve(self, service: Service) -> None:
        """The addresses of an asked-for service, each with the ports that its slices name."""
        ports: dict[str, Ports] = {}
        for name in self._of_service.get(service, ()):
            one = self._slices[name]
            for address in one.addresses:
                ports[address] = ports.get(address, frozenset()) | one.ports
        serving = self._serving[service]
        for address in serving.keys() - ports.keys():
            holder = serving.pop(address)
            self._release(holder)
        for address, numbers in ports.items():
            if address not in serving:
                serving[address] = Set({}, (address,), ())
                self._hold(serving[address])
            self._remark(serving[address], frozenset((self._marks[service], self._numbered(service, numbers))))

    def _marks_of(self, group: Group) -> Marks:
        found = self._selected(group.labels, self._endpoints)
        for name in {name for name, _, _ in group.ports} & self._names.keys():
            found |= self._port_marks(group, name)
        return found

    def _selected(self, labels: Labels, selection: Selection[Holder]) -> Marks:
        over = Over.ENDPOINTS if selection is self._endpoints else Over.NODES
        return frozenset(self._marks[Peers(text, over)] for text in selection.selectors(labels))

    # -- holders -------------------------------------------------------------------------------------------------------

    def _remark(self, holder: Holder, marks: Marks) -> None:
        if holder.marks != marks:
            holder.marks = marks
            self._dirty.update(holder.addresses())
            self._dirty_prefixes.update(holder.prefixes())

    def _hold(self, holder: Holder) -> None:
        for address in holder.addresses():
            self._hold_address(address, holder)
        for cidr in holder.prefixes():
            self._prefixed.setdefault(cidr, []).append(holder)
            self._dirty_prefixes.add(cidr)

    def _release(self, holder: Holder) -> None:
        for address in holder.addresses():
            self._release_address(address, holder)
        for cidr in holder.prefixes():
            self._prefixed[cidr].remove(holder)
            if not self._prefixed[cidr]:
                del self._prefixed[cidr]
            self._dirty_prefixes.add(cidr)

    def _hold_address(self, address: str, holder: Holder) -> None:
        held = self._holders.get(address)
        if held is None:
            self._holders[address] = holder
        elif isinstance(held, list):
            held.append(holder)
        else:
            self._holders[address] = [held, holder]
        if holder.marks:
            self._dirty.add(address)

    def _release_address(self, address: str, holder: Holder) -> None:
        held = self._holders[address]
        if isinstance(held, list):
            held.remove(holder)
            if len(held) == 1:
                self._holders[address] = held[0]
        else:
            del self._holders[address]
        if address in self._own:
            self._dirty.add(address)

    # -- the answer ----------------------------------------------------------------------------------------------------

    def marks_at(self, address: str) -> Marks:
        """As of the last `settle`."""
        return self._own.get(address, NONE) | self._prefixes.around(*_number(address))

    def settle(self) -> tuple[dict[str, Marks], Moved]:
        """The marks of the addresses that may have others than before (NONE: not an address of its own any more), and
        of the ranges that do."""
        for cidr in self._dirty_prefixes:
            self._prefixes.set(cidr, NONE.union(*(each.marks for each in self._prefixed.get(cidr, ()))))
        moved = self._prefixes.settle()
        for cidr in moved.within:
            self._dirty.update(self._inside(cidr))
        singles = {format_ip(cidr.first, cidr.width) for cidr in moved.singles}
        found = {}
        joined: dict[tuple[Marks, Marks], Marks] = {}  # equal marks are one object: compared by identity
        for address in self._dirty | singles:
            number, width = _number(address)
            own = self._held_marks(address)
            self._keep(address, number, width, own)
            if own or self._prefixes.single(number, width):
                pair = own, self._prefixes.around(number, width)
                if (both := joined.get(pair)) is None:
                    both = joined[pair] = own | pair[1]
                found[address] = both
            else:
                found[address] = NONE
        self._dirty, self._dirty_prefixes = set(), set()
        return found, moved

    def tell_again(self) -> None:
        """The next `settle` tells of everything there is."""
        self._prefixes = Prefixes()
        self._dirty_prefixes.update(self._prefixed)
        self._dirty.update(self._own)

    def _held_marks(self, address: str) -> Marks:
        held = self._holders.get(address)
        if isinstance(held, list):
            return NONE.union(*(each.marks for each in held))
        return NONE if held is None else held.marks

    def _keep(self, address: str, number: int, width: int, own: Marks) -> None:
        if own:
            if address not in self._own:
                self._near.setdefault((width, number >> 8), set()).add(address)
            self._own[address] = own
        elif self._own.pop(address, None) is not None:
            place = (width, number >> 8)
            self._near[place].discard(address)
            if not self._near[place]:
                del self._near[place]

    def _inside(self, cidr: Cidr) -> Iterator[str]:
        """Addresses with marks of their own, within a prefix (and perhaps some near it)."""
        first, last = cidr.first >> 8, cidr.last >> 8
        if last - first < len(self._near):
            places = [(cidr.width, each) for each in range(first, last + 1)]
        else:
            places = [place for place in self._near if place[0] == cidr.width and first <= place[1] <= last]
        for place in places:
            yield from self._near.get(place, ())


def _number(address: str) -> tuple[int, int]:
    """Like `parse_ip`, of an address in its usual spelling: here they come by the hundred thousand."""
    if ":" in address:
        return parse_ip(address)
    a, b, c, d = map(int, address.split("."))
    return a << 24 | b << 16 | c << 8 | d, 32

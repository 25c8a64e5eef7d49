"""From policies, pods and all that selectors see to classes and verdict tables of one node, event by event.

    policies ──► which of them govern local pods ──► what they ask about peers (marks)
    pods, namespaces, accounts, sets, nodes, slices ──► who has which marks ──► classes of addresses and ranges
    governed pods × directions ──► tables, with rows for each class

An event marks what is dirty; `flush` recalculates just that. Policies that govern no local pod cost nothing but their
subject's selector. Events may repeat or come in any order: the state depends only on what is there in the end.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple, TypeVar

from podwire.calc.classes import Classes
from podwire.calc.clauses import EVERYBODY, Asked, Clause, Port, Service, Who, asked, clauses
from podwire.calc.governing import Governing, Subject
from podwire.calc.layout import Tiers
from podwire.calc.peers import Group, GroupKey, Labels, Peerage, Slice
from podwire.calc.plans import Inside
from podwire.calc.prefixes import Marks
from podwire.calc.tables import TableKey, Tables
from podwire.calc.verdicts import UNKNOWN, Governed, Pod, PolicyChanges, PolicyState, Range
from podwire.model.address import AddressError, format_ip, parse_ip
from podwire.model.endpointslice import EndpointSlice
from podwire.model.member import Namespace, ServiceAccount, effective_labels, node_addresses, set_labels
from podwire.model.meta import Meta
from podwire.model.networkset import NetworkSet
from podwire.model.node import Node
from podwire.model.pod import Pod as PodRecord
from podwire.model.pod import PodSpec
from podwire.model.policy import SCTP, TCP, UDP, Direction, Policy, PolicyKey, Tier

_DIRECTIONS = (Direction.INGRESS, Direction.EGRESS)
_VIEWS = tuple((direction, staged) for staged in (False, True) for direction in _DIRECTIONS)

View = tuple[Direction, bool]
"""A direction, with or without the staged policies."""


Place = TypeVar("Place")


class _About(NamedTuple):
    """A policy in one direction: its clauses, the port names that the governed pod is asked for, and what is asked of
    who it is, in order."""

    clauses: list[Clause]
    names: frozenset[str]
    ends: list[Who]


class PolicyCalc:
    """One node's view. `state` is the current answer; it changes only in `flush`."""

    def __init__(self) -> None:
        self.state = PolicyState()
        self._classes = Classes()
        self._peers = Peerage()
        self._tables = Tables(self.state.tables, self._classes, self._peers)
        self._governing = Governing()
        self._namespaces: dict[str, Labels] = {}
        self._accounts: dict[tuple[str, str], Labels] = {}
        self._groups_in: dict[str, set[Group]] = {}
        self._sets: dict[object, NetworkSet] = {}
        self._local: dict[Pod, Subject | None] = {}
        self._dirty: set[Pod] = set()  # local pods, or such that were
        self._asked: dict[PolicyKey, list[Asked]] = {}  # active policies
        self._about: dict[tuple[PolicyKey, Direction], _About] = {}
        self._keys: dict[Pod, dict[View, TableKey]] = {}
        self._users: dict[TableKey, set[Pod]] = {}
        self._tables_of: dict[PolicyKey, set[TableKey]] = {}
        self._broken = False
        self._inward: set[Pod] = set()  # pods of which some rule asks who they are

    # -- events: the newest object of a key, or None -------------------------------------------------------------------

    def on_pod(self, key: Pod, pod: PodRecord | None) -> None:
        """A pod that has ended, or that is in the host's network, counts as none."""
        if pod is None or not pod.governed:
            self._take_pod(key)
        else:
            account = pod.spec.serviceAccountName or "default"
            alike = GroupKey(key[0], account, frozenset(pod.metadata.labels.items()), pod.named_ports)
            self._put_pod(key, alike, _canonical(pod.addresses))
        if key in self._local:
            self._dirty.add(key)

    def _take_pod(self, key: Pod) -> None:
        group = self._peers.pods.get(key)
        self._peers.take_pod(key)
        if group is not None and not group.pods:
            self._groups_in[key[0]].discard(group)

    def _put_pod(self, key: Pod, alike: GroupKey, addresses: tuple[str, ...]) -> None:
        before = self._peers.pods.get(key)
        labels = None if alike in self._peers.groups else self._labels(alike)
        group = self._peers.put_pod(key, alike, labels, addresses)
        if before is not group:
            groups = self._groups_in.setdefault(key[0], set())
            groups.add(group)
            if before is not None and not before.pods:
                groups.discard(before)

    def _labels(self, alike: GroupKey) -> Labels:
        pod = PodRecord(
            Meta(namespace=alike.namespace, labels=dict(alike.labels)), PodSpec(serviceAccountName=alike.account)
        )
        account = self._accounts.get((alike.namespace, alike.account), {})
        return effective_labels(pod, self._namespaces.get(alike.namespace, {}), account)

    def on_namespace(self, name: str, namespace: Namespace | None) -> None:
        """Until its namespace is known, a local pod has no entry in `state.pods`."""
        labels = None if namespace is None else namespace.metadata.labels
        if labels == self._namespaces.get(name):
            return
        self._namespaces.pop(name, None)
        if labels is not None:
            self._namespaces[name] = labels
        self._regroup(list(self._groups_in.get(name, ())))
        for key, found in self._sets.items():
            if found.namespace == name:
                self._peers.put_set(key, set_labels(found, labels or {}), found.nets)

    def on_service_account(self, key: tuple[str, str], account: ServiceAccount | None) -> None:
        labels = None if account is None else account.metadata.labels
        if labels == self._accounts.get(key):
            return
        self._accounts.pop(key, None)
        if labels is not None:
            self._accounts[key] = labels
        self._regroup([group for group in self._groups_in.get(key[0], ()) if group.key.account == key[1]])

    def _regroup(self, groups: list[Group]) -> None:
        """The same pods, but their effective labels may be others."""
        for group in groups:
            pods = dict(group.pods)
            for pod in pods:
                self._take_pod(pod)
            for pod, addresses in pods.items():
                self._put_pod(pod, group.key, addresses)
                if pod in self._local:
                    self._dirty.add(pod)

    def on_node(self, name: str, node: Node | None) -> None:
        if node is None:
            self._peers.take_node(name)
        else:
            self._peers.put_node(name, node.metadata.labels, _canonical(node_addresses(node)))

    def on_network_set(self, key: object, found: NetworkSet | None) -> None:
        self._sets.pop(key, None)
        if found is None:
            self._peers.take_set(key)
        else:
            self._sets[key] = found
            self._peers.put_set(key, set_labels(found, self._namespaces.get(found.namespace, {})), found.nets)

    def on_slice(self, key: tuple[str, str], found: EndpointSlice | None) -> None:
        one = None
        if found is not None and found.service is not None:
            one = Slice(Service(*found.service), _canonical(found.addresses), _ports(found))
        self._peers.put_slice(key, one)

    def on_policy(self, key: PolicyKey, policy: Policy | None) -> None:
        if self._governing.policies.get(key) != policy:
            self._governing.on_policy(key, policy)

    def on_tier(self, name: str, tier: Tier | None) -> None:
        self._governing.on_tier(name, tier)

    def on_local(self, key: Pod, here: bool | None) -> None:
        """The pod is one of this node's, or (None) is not."""
        if here:
            self._local.setdefault(key, None)
        elif (subject := self._local.pop(key, None)) is not None:
            self._governing.leave(key, subject)
        self._dirty.add(key)

    # -- the answer ----------------------------------------------------------------------------------------------------

    def flush(self) -> PolicyChanges:
        """Bring `state` up to date with the events so far; what changed in it. Raises Exhausted where there are more
        classes or tables than numbers: `state` is then no state to hold, and the next flush makes it anew."""
        owed = self._begin_again() if self._broken else PolicyChanges()
        self._broken = True
        changes = self._settle()
        self._broken = False
        return PolicyChanges(
            changes.addresses | owed.addresses,
            changes.ranges | owed.ranges,
            changes.tables | owed.tables,
            changes.rows,
            changes.pods | owed.pods,
            changes.retired,
        )

    def _begin_again(self) -> PolicyChanges:
        """Forget all numbers; what there was."""
        state = self.state
        pods = {*state.pods, *state.staged}
        owed = PolicyChanges(
            frozenset(state.addresses), frozenset(state.ranges), frozenset(state.tables), pods=frozenset(pods)
        )
        for held in (state.addresses, state.ranges, state.tables, state.pods, state.staged):
            held.clear()
        self._classes = Classes()
        self._tables = Tables(state.tables, self._classes, self._peers)
        self._peers.tell_again()
        self._keys.clear()
        self._users.clear()
        self._tables_of.clear()
        self._dirty |= self._local.keys() | pods
        return owed

    def _settle(self) -> PolicyChanges:
        for pod in self._dirty & self._local.keys():
            self._settle_subject(pod)
        policies, moved = self._governing.take()
        for subject in moved:
            self._dirty |= subject.pods
        self._settle_asked(policies)
        addresses, ranges = self._settle_marks()
        fresh, retired = self._classes.settle()
        if addresses or ranges:
            self._dirty |= self._inward
        came, went = self._settle_keys()
        stale = {key for policy in policies for key in self._tables_of.get(policy, ())} | set(self._tables.outdated())
        wanted = {key: self._tiers_of(key) for key in came | (stale - went)}
        tables, rows, moved_tables = self._tables.settle(wanted, went, fresh, retired)
        pods = self._settle_pods(self._dirty.union(*(self._users[key] for key in moved_tables)))
        self._dirty = set()
        changes = PolicyChanges(
            frozenset(addresses),
            frozenset(ranges),
            frozenset(tables),
            {number: frozenset(touched) for number, touched in rows.items()},
            frozenset(pods),
            retired,
        )
        if changes:
            self._classes.rest()
            self._tables.rest()
        return changes

    def _settle_subject(self, pod: Pod) -> None:
        group = self._peers.pods.get(pod) if pod[0] in self._namespaces else None
        before = self._local[pod]
        if before is not None and before.group is not group:
            self._governing.leave(pod, before)
            self._local[pod] = None
        if group is not None and self._local[pod] is None:
            self._local[pod] = self._governing.enter(pod, group)

    def _settle_asked(self, policies: set[PolicyKey]) -> None:
        dropped = [one for key in policies for one in self._asked.pop(key, ())]
        for key in policies:
            self._about.pop((key, Direction.INGRESS), None)
            self._about.pop((key, Direction.EGRESS), None)
            if key in self._governing.active:
                self._asked[key] = list(asked(self._governing.policies[key]))
                for one in self._asked[key]:
                    self._peers.ask(one)
        for one in dropped:
            self._peers.drop(one)

    def _settle_marks(self) -> tuple[set[str], set[Range]]:
        """Give addresses and ranges the classes of their marks."""
        marks, moved = self._peers.settle()
        addresses = assign(self._classes, self.state.addresses, marks)
        ranges = assign(self._classes, self.state.ranges, moved.ranges)
        return addresses, ranges

    def _settle_keys(self) -> tuple[set[TableKey], set[TableKey]]:
        """Which tables the dirty pods need; the tables that nobody needed before, and those that nobody needs now."""
        before = {key: True for pod in self._dirty for key in self._keys.get(pod, {}).values()}
        for pod in self._dirty:
            for key in self._keys.pop(pod, {}).values():
                self._users[key].discard(pod)
            self._inward.discard(pod)
            subject = self._local.get(pod)
            if subject is not None:
                self._keys[pod] = keys = self._needed(pod, subject)
                for key in keys.values():
                    before.setdefault(key, key in self._users)
                    self._users.setdefault(key, set()).add(pod)
        came = {key for key, used in before.items() if not used}
        went = {key for key in before if not self._users[key]}
        for key in went:
            del self._users[key]
        for key in came:
            for policy in key.policies:
                self._tables_of.setdefault(policy, set()).add(key)
        for key in went:
            for policy in key.policies:
                self._tables_of[policy].discard(key)
                if not self._tables_of[policy]:
                    del self._tables_of[policy]
        return came, went

    def _needed(self, pod: Pod, subject: Subject) -> dict[View, TableKey]:
        found = {}
        for direction, staged in _VIEWS:
            rows = self._governing.rows(subject, direction, staged)
            if rows:
                inside = self._inside(pod, subject.group, direction, rows)
                found[direction, staged] = TableKey(direction, rows, inside)
        return found

    def _inside(self, pod: Pod, group: Group, direction: Direction, rows: tuple[PolicyKey, ...]) -> Inside:
        about = [self._policy_about(key, direction) for key in rows]
        names = sorted(set[str]().union(*(each.names for each in about)))
        ends = [end for each in about for end in each.ends]
        if ends:
            self._inward.add(pod)
        return Inside(
            tuple((name, group.named(name)) for name in names),
            tuple(self._versions(pod, group, end) for end in ends),
        )

    def _versions(self, pod: Pod, group: Group, end: Who) -> frozenset[int] | None:
        """The IP versions in which the pod is who a rule means by its own end; None: all that it has."""
        found = {}
        for address in group.pods[pod]:
            found[4 if ":" not in address else 6] = end.fits(self._peers.marks_at(address))
        if not found:
            found = dict.fromkeys((4, 6), end.fits(group.marks))
        return None if all(found.values()) else frozenset(version for version, fits in found.items() if fits)

    def _policy_about(self, key: PolicyKey, direction: Direction) -> _About:
        if (key, direction) not in self._about:
            made = clauses(self._governing.policies[key], direction, self._peers.mark)
            names = frozenset(name for clause in made for name in clause.names_inside())
            self._about[key, direction] = _About(made, names, [each.local for each in made if each.local != EVERYBODY])
        return self._about[key, direction]

    def _tiers_of(self, key: TableKey) -> Tiers:
        found: list[tuple[Tier, list[Clause]]] = []
        for policy in key.policies:
            tier = self._governing.tiers[self._governing.policies[policy].tier]
            if not found or found[-1][0] != tier:
                found.append((tier, []))
            found[-1][1].extend(self._policy_about(policy, key.direction).clauses)
        return found

    def _settle_pods(self, pods: Iterable[Pod]) -> set[Pod]:
        changed = set()
        for pod in pods:
            keys = self._keys.get(pod)
            if keys is None and pod not in self.state.pods and pod not in self.state.staged:
                continue
            numbers = {view: self._tables.number(key) for view, key in (keys or {}).items()}
            enforced = staged = None
            if keys is not None:
                enforced = Governed(*(numbers.get((direction, False)) for direction in _DIRECTIONS))
                staged = Governed(*(numbers.get((direction, True)) for direction in _DIRECTIONS))
            for held, value in (
                (self.state.pods, enforced),
                (self.state.staged, None if staged == enforced else staged),
            ):
                if held.get(pod) != value:
                    changed.add(pod)
                    if value is None:
                        del held[pod]
                    else:
                        held[pod] = value
        return changed


def assign(classes: Classes, held: dict[Place, int], places: Mapping[Place, Marks]) -> set[Place]:
    """Give places (addresses, ranges) the classes of the marks that they have now; those whose class is another. A
    class all of whose places go the same way to a new class is that class, under its number: nothing has to move."""
    by_class: dict[int, list[Place]] = {}
    for place, marks in places.items():
        number = held.get(place, UNKNOWN)
        before = classes.marks[number]
        if before is not marks and before != marks:
            by_class.setdefault(number, []).append(place)
    found = set[Place]()
    for number, moving in by_class.items():
        aims = {places[place] for place in moving} if len(moving) == classes.count(number) else set()
        if len(aims) == 1 and not classes.known(aim := aims.pop()):
            classes.rename(number, aim)
            continue
        for place in moving:
            after = classes.number(places[place])
            classes.move(number, after)
            if after == UNKNOWN:
                del held[place]
            else:
                held[place] = after
        found.update(moving)
    return found


def _ports(found: EndpointSlice) -> frozenset[Port]:
    known = {"TCP": TCP, "UDP": UDP, "SCTP": SCTP}
    return frozenset((known[each.protocol], each.port) for each in found.ports or () if each.protocol in known)


def _canonical(addresses: Iterable[str]) -> tuple[str, ...]:
    """In their usual spelling; what is no address is left out, and IPv4 in the clothes of IPv6 is IPv4."""
    found = []
    for text in addresses:
        try:
            number, width = parse_ip(text)
        except AddressError:
            continue
        if width == 32:
            found.append(text)
        elif number >> 32 == 0xFFFF:
            found.append(format_ip(number & 0xFFFFFFFF))
        else:
            found.append(format_ip(number, width))
    return tuple(dict.fromkeys(found))

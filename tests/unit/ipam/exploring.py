"""Every order of what several processes and one API can do, each state once.

A state is what the API stores, what each process was told so far (which is all that decides what it does next), which
writes are still on their way although nobody waits for them any more, and how many faults may still happen. Orders that
lead to the same state are followed once: that prunes what a partial order reduction would, and what it would not.

Faults: a call whose outcome its process does not learn; the write takes effect at any later time, or never. A crash:
the process begins anew with what it had told its pods; its writes under way go on as above.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from podwire.model.ippool import IPPool
from tests.unit.ipam.faulty import stored
from tests.unit.ipam.stepping import PAUSE, UNKNOWN, Answer, Call, Plan, Process, Store

Action = tuple[int, Answer]


class Wrong(AssertionError):
    """What must never be, and by which steps it came about."""


@dataclass(slots=True)
class Place:
    """Where a process is: `path` are the answers since it was born."""

    born: tuple[Any, ...]
    path: tuple[Action, ...]
    pending: dict[int, Call]
    told: tuple[tuple[str, str], ...]
    done: int
    finished: bool
    after: dict[Action, int] = field(default_factory=dict)


class Program:
    """All that one node's process can be, by number."""

    def __init__(self, plan: Plan, pool: IPPool) -> None:
        self.plan, self._pool = plan, pool
        self.places: list[Place] = []
        self._births: dict[tuple[Any, ...], int] = {}
        self._alive: dict[int, Process] = {}
        self.runs = 0

    def born(self, number: int = 0, told: tuple[tuple[str, str], ...] = (), done: int = 0) -> int:
        key = (number, told, done)
        if key not in self._births:
            self._births[key] = self._note(key, (), self._begin(key))
        return self._births[key]

    def _begin(self, born: tuple[Any, ...]) -> Process:
        number, told, done = born
        self.runs += 1
        return Process(self.plan, self._pool, number, dict(told), done)

    def _note(self, born: tuple[Any, ...], path: tuple[Action, ...], process: Process) -> int:
        told = tuple(sorted(process.told.items()))
        self.places.append(Place(born, path, dict(process.pending), told, process.done, process.finished))
        self._alive = {len(self.places) - 1: process}
        return len(self.places) - 1

    def after(self, at: int, action: Action) -> int:
        place = self.places[at]
        if action not in place.after:
            process = self._alive.pop(at, None)
            if process is None:
                process = self._begin(place.born)
                for earlier in place.path:
                    process.answer(*earlier)
            process.answer(*action)
            place.after[action] = self._note(place.born, (*place.path, action), process)
        return place.after[action]

    def reborn(self, at: int) -> int:
        """After a crash."""
        place = self.places[at]
        return self.born(place.born[0] + 1, place.told, place.done)


@dataclass(frozen=True)
class Scene:
    """What is explored. `faults` and `crashes` are how many there may be in one order of events."""

    pool: IPPool
    plans: tuple[Plan, ...]
    faults: int = 0
    crashes: int = 0


@dataclass
class Found:
    """How big it was."""

    states: int = 0
    steps: int = 0
    ends: int = 0
    runs: int = 0


State = tuple[int, tuple[int, ...], tuple[Call, ...], int, int]  # store, places, on their way, faults, crashes


class Search:
    """Depth first, each state once."""

    def __init__(self, scene: Scene) -> None:
        self._scene = scene
        self._store = Store()
        self._programs = [Program(plan, scene.pool) for plan in scene.plans]
        self._held: dict[int, dict[str, str]] = {}
        self._from: dict[State, tuple[State, str] | None] = {}
        self._judged: set[Any] = set()

    def run(self) -> Found:
        """Raises Wrong."""
        births = tuple(program.born() for program in self._programs)
        first: State = (self._store.empty, births, (), self._scene.faults, self._scene.crashes)
        self._from[first] = None
        found = Found()
        deeper = [self._enter(first, found)]
        while deeper:
            following = next(deeper[-1], None)
            if following is None:
                deeper.pop()
            else:
                deeper.append(self._enter(following, found))
        found.runs = sum(program.runs for program in self._programs)
        return found

    def _enter(self, state: State, found: Found) -> Iterator[State]:
        """Judge a state; the states right after it that nobody came to before. Lazily: a process that is at work goes
        on from where it is, and is run anew only for the other ways on."""
        found.states += 1
        ended = True
        try:
            self._judge(state)
            for label, following in self._next(state):
                found.steps += 1
                ended = False
                if following not in self._from:
                    self._from[following] = (state, label)
                    yield following
            if ended:
                found.ends += 1
                self._conclude(state)
        except Wrong:
            raise
        except Exception as error:
            raise Wrong(f"{error!r}\n" + "\n".join(self._trace(state))) from error

    def _next(self, state: State) -> Iterator[tuple[str, State]]:
        for label, (store, places, ghosts, faults, crashes) in self._events(state):
            living = tuple(ghost for ghost in ghosts if not self._dead(store, ghost))
            yield label, (store, places, living, faults, crashes)

    def _dead(self, store: int, ghost: Call) -> bool:
        """It names a version that is no longer, and versions never come back."""
        bound = b'"resourceVersion":' in ghost[2] or b'"resource_version":' in ghost[2]
        return bound and self._store.apply(store, ghost)[1][0] == 1

    def _events(self, state: State) -> Iterator[tuple[str, State]]:
        store, places, ghosts, faults, crashes = state
        for number, (program, at) in enumerate(zip(self._programs, places, strict=True)):
            place = program.places[at]
            name = program.plan.node

            def moved(to: int, number: int = number) -> tuple[int, ...]:
                return (*places[:number], to, *places[number + 1 :])

            for call, what in place.pending.items():
                after, answer = self._store.apply(store, what)
                yield (
                    f"{name}: {_words(what)} → {answer[1][:300]!r}",
                    (
                        after,
                        moved(program.after(at, (call, answer))),
                        ghosts,
                        faults,
                        crashes,
                    ),
                )
                if faults and what[1] is not PAUSE:
                    late = _with(ghosts, [what])
                    lost = moved(program.after(at, (call, UNKNOWN)))
                    yield f"{name}: {_words(what)} → no answer", (store, lost, late, faults - 1, crashes)
            if crashes and not place.finished:
                late = _with(ghosts, place.pending.values())
                yield f"{name} crashes", (store, moved(program.reborn(at)), late, faults, crashes - 1)
        for ghost in dict.fromkeys(ghosts):
            left = list(ghosts)
            left.remove(ghost)
            after, _ = self._store.apply(store, ghost)
            yield f"late: {_words(ghost)}", (after, places, tuple(left), faults, crashes)

    # -- what must hold -----------------------------------------------------------------------------------------------

    def held(self, store: int) -> dict[str, str]:
        if store not in self._held:
            self._held[store] = stored(self._store.open(store))
        return self._held[store]

    def _told(self, state: State) -> list[tuple[str, str, str]]:
        return [
            (address, handle, program.plan.node)
            for program, at in zip(self._programs, state[1], strict=True)
            for handle, address in program.places[at].told
        ]

    def _judge(self, state: State) -> None:
        """No address is told to two, and each one told is on the API for that pod, or ahead for its node."""
        key = (state[0], state[1])
        if key in self._judged:
            return
        self._judged.add(key)
        held, seen = self.held(state[0]), dict[str, str]()
        for address, handle, node in self._told(state):
            assert address not in seen, f"{address} was told to {seen[address]} and to {handle}"
            seen[address] = handle
            have = held.get(address)
            assert have in (handle, f"podwire-ahead-{node}"), f"{address} of {handle} is {have or 'nobody'}'s"

    def _conclude(self, state: State) -> None:
        """When all is quiet: what is held is what was told. After faults that takes a sweep of every node."""
        told = {address: handle for address, handle, _ in self._told(state)}
        store = state[0]
        if state[3] < self._scene.faults or state[4] < self._scene.crashes:
            key = (store, state[1])
            if key in self._judged and ("end", key) in self._judged:
                return
            self._judged.add(("end", key))
            for program, at in zip(self._programs, state[1], strict=True):
                place = program.places[at]
                now = program.born(place.born[0] + 10, place.told, place.done)
                while pending := program.places[now].pending:
                    call = min(pending)
                    store, answer = self._store.apply(store, pending[call])
                    now = program.after(now, (call, answer))
        held = {a: h for a, h in self.held(store).items() if not h.startswith("podwire-ahead-")}
        assert held == told, f"held at last: {held}, told: {told}"

    def _trace(self, state: State) -> list[str]:
        lines: list[str] = []
        at: State = state
        while (step := self._from[at]) is not None:
            at, label = step
            lines.append(label)
        return lines[::-1]


def _with(ghosts: tuple[Call, ...], more: Any) -> tuple[Call, ...]:
    """Reads have no effect, whenever they arrive."""
    writes = [call for call in more if call[0] not in ("get", "list", "watch")]
    return tuple(sorted([*ghosts, *writes], key=lambda call: (call[0], call[1].plural, call[2])))


def _words(call: Call) -> str:
    return f"{call[0]} {call[1].plural} {call[2].decode()[:400]}"

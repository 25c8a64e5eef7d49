"""Pure: how long to wait before the next attempt. Time comes as an argument (monotonic seconds)."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(slots=True)
class Backoff:
    """Delays that double from `initial` to `maximum` seconds, kept by key (a container, an image).

    A key that has not failed for `reset` seconds starts again. Defaults are kubelet's for restarts: 10 s to 5 min,
    reset after 10 min.
    """

    initial: float = 10.0
    maximum: float = 300.0
    reset: float = 600.0
    _held: dict[str, tuple[float, float]] = field(default_factory=dict)  # key: (delay, time of the last failure)

    def fail(self, key: str, now: float) -> float:
        """Note a failure; the delay until the next attempt."""
        delay, last = self._held.get(key, (0.0, now))
        delay = self.initial if delay == 0.0 or now - last > self.reset else min(delay * 2, self.maximum)
        self._held[key] = (delay, now)
        return delay

    def delay(self, key: str) -> float:
        """The delay in force for a key; 0 without a failure."""
        return self._held.get(key, (0.0, 0.0))[0]

    def remaining(self, key: str, now: float) -> float:
        """Seconds until the next attempt is allowed; 0 when it is."""
        delay, last = self._held.get(key, (0.0, now))
        return max(0.0, last + delay - now)

    def forget(self, key: str) -> None:
        """The key succeeded, or is gone."""
        self._held.pop(key, None)


def words(seconds: float) -> str:
    """A duration as Go prints it: 10s, 1m20s, 5m0s."""
    whole = int(seconds)
    return f"{whole // 60}m{whole % 60}s" if whole >= 60 else f"{whole}s"

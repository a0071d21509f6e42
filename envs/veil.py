"""A simulator that shows less than it knows: parts of what it observes hidden, or everything late."""

from collections import deque
from collections.abc import Sequence
from typing import Any

import numpy as np

from envs.spec import Array, EnvError, Simulator, Step
from envs.wrapped import Observation, Wrapped


class Veiled(Wrapped):
    """Hide observations by name, whole or parts of a vector, and show the rest `delay` decisions late.

    What is redrawn or rendered is the present: like the truth it is never late.
    """

    def __init__(self, simulator: Simulator, *, hide: Sequence[str] = (), delay: int = 0) -> None:
        self.kept, observation = _kept(simulator.spec.observation, hide)
        super().__init__(simulator, observation)
        self.late: deque[Observation] = deque(maxlen=delay + 1)  # oldest first

    def reset(self) -> Observation:
        """Begin the next episode; until something is old enough, its first observation is shown."""
        self.late.clear()
        return self._show(self._begin())

    def step(self, action: np.ndarray) -> Step:
        """Apply one action vector: A -> Step."""
        step = self.simulator.step(action)
        return step._replace(obs=self._show(step.obs))

    def snapshot(self) -> dict[str, Any]:
        """Return the simulator's snapshot and the observations still on their way."""
        waiting = {f"late.{i}.{key}": obs[key] for i, obs in enumerate(self.late) for key in obs}
        return self.simulator.snapshot() | waiting | {"late": len(self.late)}

    def restore(self, snapshot: dict[str, Any]) -> None:
        """Continue from a snapshot."""
        ours = self._restore(snapshot, "late")
        self.late.clear()
        for i in range(int(ours["late"])):
            self.late.append({key: np.array(ours[f"late.{i}.{key}"]) for key in self.spec.observation})

    def _show(self, obs: Observation) -> Observation:
        self.late.append({k: obs[k] if rows is None else obs[k][rows] for k, rows in self.kept.items()})
        return self.late[0]


def _kept(
    observation: dict[str, Array], hide: Sequence[str]
) -> tuple[dict[str, np.ndarray | None], dict[str, Array]]:
    """Say what stays of every observation, which rows of it (None: all), and what that looks like."""
    known = {*observation, *(part for array in observation.values() for part in array.parts)}
    if missing := [name for name in hide if name not in known]:
        raise EnvError(
            f"env.hide names {', '.join(map(repr, missing))}, which this environment does not show; "
            f"it shows {', '.join(sorted(known))}"
        )
    kept: dict[str, np.ndarray | None] = {}
    shown: dict[str, Array] = {}
    for key, array in observation.items():
        if key in hide:
            continue
        if not any(part in hide for part in array.parts):
            kept[key], shown[key] = None, array
            continue
        parts, rows, start = {}, [], 0
        for part, (first, last) in array.parts.items():
            if part not in hide:
                parts[part] = (start, start + last - first)
                rows += range(first, last)
                start += last - first
        if rows:
            kept[key], shown[key] = np.array(rows), Array((start,), array.dtype, parts)
    if not shown:
        raise EnvError("env.hide leaves nothing to see; hide less")
    return kept, shown

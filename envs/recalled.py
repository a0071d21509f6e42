"""A simulator that also shows the last few decisions: what was done, and how observations changed."""

from collections import deque
from typing import Any

import numpy as np

from envs.spec import Array, EnvError, Simulator, Step
from envs.wrapped import Observation, Wrapped

KEY = "recent"


class Recalled(Wrapped):
    """Show beside an observation what led to it: `count` actions and changes of vectors, newest first.

    Changes rather than the rows themselves: a smooth system moves little from row to row, and each number
    is scaled by how much it varies. Where an episode begins there was no action and no change.
    """

    def __init__(self, simulator: Simulator, *, count: int) -> None:
        shown = simulator.spec.observation
        if KEY in shown:
            raise EnvError(f"env.recall adds {KEY!r}, which this environment shows already; leave it out")
        self.keys = sorted(key for key, array in shown.items() if array.dtype == "float32")
        if not self.keys:
            raise EnvError("env.recall needs an observed vector; with pictures alone leave it out")
        self.last = np.zeros(sum(int(np.prod(shown[key].shape)) for key in self.keys), np.float32)
        self.nothing = np.zeros(self.last.size + simulator.spec.action.size, np.float32)
        self.recent = deque([self.nothing] * count, count)
        super().__init__(simulator, {**shown, KEY: Array((count * self.nothing.size,), "float32")})

    def reset(self) -> Observation:
        """Begin the next episode."""
        obs = self._begin()
        self.recent.extend([self.nothing] * len(self.recent))
        self.last = self._vector(obs)
        return self._show(obs)

    def step(self, action: np.ndarray) -> Step:
        """Apply one action vector: A -> Step."""
        step = self.simulator.step(action)
        now = self._vector(step.obs)
        self.recent.appendleft(np.concatenate([now - self.last, np.asarray(action, np.float32)]))
        self.last = now
        return step._replace(obs=self._show(step.obs))

    def snapshot(self) -> dict[str, Any]:
        """Return the simulator's snapshot and what is recalled."""
        ours = {f"{KEY}.last": self.last, f"{KEY}.rows": np.stack(list(self.recent))}
        return self.simulator.snapshot() | ours

    def restore(self, snapshot: dict[str, Any]) -> None:
        """Continue from a snapshot."""
        ours = self._restore(snapshot, f"{KEY}.")
        self.last = np.array(ours[f"{KEY}.last"])
        self.recent.extend(np.array(ours[f"{KEY}.rows"]))

    def _vector(self, obs: Observation) -> np.ndarray:
        return np.concatenate([np.ravel(obs[key]) for key in self.keys]).astype(np.float32)

    def _show(self, obs: Observation) -> Observation:
        return {**obs, KEY: np.concatenate(list(self.recent))}

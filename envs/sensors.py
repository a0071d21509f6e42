"""A simulator some of whose sensors are dead for an episode, and which says so."""

from typing import Any

import numpy as np

from envs.spec import Array, EnvError, Simulator, Step
from envs.wrapped import Observation, Wrapped

KEY = "missing"
DRAW = 7  # keeps these draws apart from any others of the same episode


class Unreliable(Wrapped):
    """Let every entry of the observed vectors be dead for a whole episode with a probability.

    A dead entry reads 0, and the vector `missing` marks it with a 1, in the order of the keys' names. Which
    ones are dead is a function of (seed, index, episode). A share of 0 shows that nothing is missing.
    """

    def __init__(self, simulator: Simulator, *, share: float) -> None:
        shown = simulator.spec.observation
        if not 0 <= share <= 1:
            raise EnvError(f"env.drop={share} must lie between 0 and 1")
        if KEY in shown:
            raise EnvError(f"env.drop adds {KEY!r}, which this environment already shows; leave it out")
        self.sizes = {
            key: int(np.prod(shown[key].shape)) for key in sorted(shown) if shown[key].dtype == "float32"
        }
        if not self.sizes:
            raise EnvError("env.drop needs observations that are vectors; use env.observations=state")
        super().__init__(simulator, {**shown, KEY: Array((sum(self.sizes.values()),), "float32")})
        self.share = share
        self.dead = np.zeros(sum(self.sizes.values()), dtype=bool)

    def reset(self) -> Observation:
        """Begin the next episode."""
        obs = self._begin()
        self.dead = self._draw()
        return self._show(obs)

    def step(self, action: np.ndarray) -> Step:
        """Apply one action vector: A -> Step."""
        step = self.simulator.step(action)
        return step._replace(obs=self._show(step.obs))

    def snapshot(self) -> dict[str, Any]:
        """Return the simulator's snapshot; which sensors are dead follows from the episode."""
        return self.simulator.snapshot()

    def restore(self, snapshot: dict[str, Any]) -> None:
        """Continue from a snapshot."""
        self._restore(snapshot, f"{KEY}.")
        self.dead = self._draw()

    def _draw(self) -> np.ndarray:
        names = (self.seed, self.index, self.episode, DRAW)
        draw = np.random.default_rng([int(name) % 2**32 for name in names])
        return draw.random(len(self.dead)) < self.share

    def _show(self, obs: Observation) -> Observation:
        shown, start = {**obs, KEY: self.dead.astype(np.float32)}, 0
        for key, size in self.sizes.items():
            mine = self.dead[start : start + size].reshape(obs[key].shape)
            shown[key] = np.where(mine, np.float32(0), obs[key])
            start += size
        return shown

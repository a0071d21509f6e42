"""A simulator that also shows what the last decision was rewarded with."""

from typing import Any

import numpy as np

from envs.spec import Array, EnvError, Simulator, Step
from envs.wrapped import Observation, Wrapped

KEY = "last_reward"


class Rewarded(Wrapped):
    """Show the reward that came with an observation beside it, 0 where an episode begins.

    Where something is hidden, rewards may be all that tells it: who remembers actions and what was seen
    can remember what they were worth as well.
    """

    def __init__(self, simulator: Simulator) -> None:
        shown = simulator.spec.observation
        if KEY in shown:
            raise EnvError(
                f"env.reward_seen adds {KEY!r}, which this environment shows already; leave it out"
            )
        super().__init__(simulator, {**shown, KEY: Array((1,), "float32")})
        self.last = 0.0

    def reset(self) -> Observation:
        """Begin the next episode."""
        obs, self.last = self._begin(), 0.0
        return self._show(obs)

    def step(self, action: np.ndarray) -> Step:
        """Apply one action vector: A -> Step."""
        step = self.simulator.step(action)
        self.last = step.reward
        return step._replace(obs=self._show(step.obs))

    def snapshot(self) -> dict[str, Any]:
        """Return the simulator's snapshot and the last reward."""
        return self.simulator.snapshot() | {KEY: self.last}

    def restore(self, snapshot: dict[str, Any]) -> None:
        """Continue from a snapshot."""
        self.last = float(self._restore(snapshot, KEY)[KEY])

    def _show(self, obs: Observation) -> Observation:
        return {**obs, KEY: np.array([self.last], np.float32)}

"""A simulator that shows more than there is: channels of noise that nothing one does has to do with."""

from typing import Any

import numpy as np

from envs.spec import Array, EnvError, Simulator, Step
from envs.truth import Truth
from envs.wrapped import Observation, Wrapped

KEY = "distractors"


class Distracted(Wrapped):
    """Show `count` channels of noise beside what there is, each a stationary AR(1) process over decisions.

    `memory` is what a channel keeps from one decision to the next, so how far it can be predicted; `scale`
    is its standard deviation. The noise is a function of (seed, index, episode, decision).
    """

    def __init__(self, simulator: Simulator, *, count: int, memory: float = 0.9, scale: float = 1.0) -> None:
        shown = simulator.spec.observation
        if KEY in shown:
            raise EnvError(f"env.distractors adds {KEY!r}, which this environment already shows; set it to 0")
        if not 0 <= memory < 1 or not 0 <= scale < np.inf:
            raise EnvError(
                f"env.distractor_memory={memory} must lie in [0, 1), and "
                f"env.distractor_scale={scale} must not be negative"
            )
        super().__init__(simulator, {**shown, KEY: Array((count,), "float32")})
        self.memory, self.scale = memory, scale
        self.noise, self.decision = np.zeros(count), 0

    def reset(self) -> Observation:
        """Begin the next episode."""
        obs = self._begin()
        self.decision = 0
        self.noise = self._draw()
        return self._show(obs)

    def step(self, action: np.ndarray) -> Step:
        """Apply one action vector, which the noise does not care about: A -> Step."""
        step = self.simulator.step(action)
        self.decision += 1
        self.noise = self.memory * self.noise + np.sqrt(1 - self.memory**2) * self._draw()
        return step._replace(obs=self._show(step.obs))

    def snapshot(self) -> dict[str, Any]:
        """Return the simulator's snapshot and the noise."""
        ours = {"distractors.noise": self.noise.copy(), "distractors.decision": self.decision}
        return self.simulator.snapshot() | ours

    def restore(self, snapshot: dict[str, Any]) -> None:
        """Continue from a snapshot."""
        ours = self._restore(snapshot, "distractors.")
        self.noise = np.array(ours["distractors.noise"], np.float64)
        self.decision = int(ours["distractors.decision"])

    def truth(self) -> Truth:
        """What the simulator knows, and the noise: whoever asks what was learned asks for both."""
        known = super().truth()
        return known | {KEY: self.scale * self.noise} if known else known

    def _draw(self) -> np.ndarray:
        names = (self.seed, self.index, self.episode, self.decision)
        return np.random.default_rng([int(name) % 2**32 for name in names]).standard_normal(len(self.noise))

    def _show(self, obs: Observation) -> Observation:
        return {**obs, KEY: (self.scale * self.noise).astype(np.float32)}

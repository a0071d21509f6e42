"""What the simulators have in common that change what another one shows."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from envs.nuisance import Nuisance, redraw
from envs.spec import Array, Simulator
from envs.truth import Truth

Observation = dict[str, np.ndarray]


class Wrapped:
    """A simulator around another one: whoever sets our episode chooses the other's."""

    def __init__(self, simulator: Simulator, observation: Mapping[str, Array]) -> None:
        self.simulator = simulator
        self.seed, self.index, self.episode = simulator.seed, simulator.index, simulator.episode
        self.spec = replace(simulator.spec, observation=dict(observation))

    @property
    def exact(self) -> bool:
        """Whether the other simulator was restored to just where it had been."""
        return getattr(self.simulator, "exact", True)

    @property
    def warning(self) -> str:
        """What it says where it was not."""
        return getattr(self.simulator, "warning", "")

    def _begin(self) -> Observation:
        """Begin the next episode of the other simulator."""
        self.simulator.seed, self.simulator.episode = self.seed, self.episode
        obs = self.simulator.reset()
        self.episode = self.simulator.episode
        return obs

    def _restore(self, snapshot: Mapping[str, Any], prefix: str) -> dict[str, Any]:
        """Let the other simulator continue from a snapshot; what is ours begins with the prefix: -> ours."""
        ours = {key: value for key, value in snapshot.items() if key.startswith(prefix)}
        self.simulator.seed = self.seed
        self.simulator.restore({key: value for key, value in snapshot.items() if key not in ours})
        self.episode = self.simulator.episode
        return ours

    def truth(self) -> Truth:
        """What the simulator knows, whatever it shows."""
        return getattr(self.simulator, "truth", dict)()

    def redraw(self, nuisance: Nuisance) -> Observation:
        """What is shown, had the present looked otherwise."""
        return {
            key: image
            for key, image in redraw(self.simulator, nuisance).items()
            if key in self.spec.observation
        }

    def render(self, height: int, width: int, quality: str = "fast") -> np.ndarray:
        """Return a picture of the present state: uint8 height width 3."""
        return self.simulator.render(height, width, quality)

    def close(self) -> None:
        """Free what the simulator holds."""
        self.simulator.close()

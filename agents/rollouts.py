"""Playing whole episodes with an agent, outside training: evaluation, videos and probes share this."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from envs import Spec, simulator_from_config

EVALUATION_SEED = 1_000_003  # added to the run's seed: no evaluation episode is ever a training episode

PLAY_SEED = 2_000_003

Watcher = Callable[[int, Any], None]
"""Called with the decision number and the first simulator, after each of its decisions."""


@dataclass(frozen=True)
class Played:
    """What one episode came to."""

    score: float
    frames: int
    terminated: bool


def play(
    agent: Any,
    simulators: list[Any],
    *,
    seed: int,
    stop: Callable[[], bool] = lambda: False,
    watch: Watcher | None = None,
) -> list[Played] | None:
    """Play one episode in each simulator side by side, greedily; None when `stop` asked to leave.

    The batch keeps its size to the end (finished environments are fed their last observation), so the numbers do
    not depend on which episode ends first, and a fresh process gets the same ones.
    """
    generator = torch.Generator(agent.device).manual_seed(seed)
    carry = agent.start(len(simulators))
    current = [simulator.reset() for simulator in simulators]
    scores, frames = [0.0] * len(simulators), [0] * len(simulators)
    ended: list[bool | None] = [None] * len(simulators)  # None: still playing; else whether it terminated
    first, decision = True, 0
    while None in ended:
        if stop():
            return None
        obs = {
            key: torch.from_numpy(np.stack([o[key] for o in current])).to(agent.device) for key in current[0]
        }
        obs["is_init"] = torch.full((len(simulators), 1), first, device=agent.device)
        carry, action = agent.act(carry, obs, explore=False, generator=generator)
        first, decision, chosen = False, decision + 1, action.cpu().numpy()
        for i, simulator in enumerate(simulators):
            if ended[i] is not None:
                continue
            step = simulator.step(chosen[i])
            current[i] = step.obs
            scores[i] += step.reward
            frames[i] += step.frames
            if step.terminated or step.truncated:
                ended[i] = step.terminated
            if i == 0 and watch is not None:
                watch(decision, simulator)
    return [Played(s, f, bool(t)) for s, f, t in zip(scores, frames, ended, strict=True)]


def facts(env: Any) -> Spec:
    """Observations, actions and episode length of an environment config."""
    simulator = simulator_from_config(env, EVALUATION_SEED, 0)
    try:
        return simulator.spec
    finally:
        simulator.close()


def evaluate_episodes(
    agent: Any,
    env: Any,
    episodes: int,
    seed: int,
    *,
    stop: Callable[[], bool] = lambda: False,
    watch: Watcher | None = None,
) -> list[Played] | None:
    """Play evaluation episodes of an environment config: the one function that training and `evaluate` share."""
    seed = EVALUATION_SEED + seed
    simulators = [simulator_from_config(env, seed, index) for index in range(episodes)]
    try:
        return play(agent, simulators, seed=seed, stop=stop, watch=watch)
    finally:
        for simulator in simulators:
            simulator.close()


def summary(played: list[Played]) -> dict[str, float]:
    """Mean, spread and extremes over episodes, as metrics."""
    scores = np.array([episode.score for episode in played])
    return {
        "eval/return": float(scores.mean()),
        "eval/return_std": float(scores.std()),
        "eval/return_min": float(scores.min()),
        "eval/return_max": float(scores.max()),
        "eval/length": float(np.mean([episode.frames for episode in played])),
    }

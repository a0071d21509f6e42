"""Playing whole episodes with an agent, outside training: evaluation, videos and probes share this."""

import contextlib
import ctypes
import gc
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from envs import EnvError, Simulator, Spec, simulator_from_config
from envs.backends import over_budget
from envs.spec import explain

EVALUATION_SEED = 1_000_003  # added to the run's seed: no evaluation episode is ever a training episode

PLAY_SEED = 2_000_003

Build = Callable[[int], Simulator]
"""Builds the simulator with a number."""

Watcher = Callable[[int, Any], None]
"""Called with the decision number and the first simulator, after each of its decisions."""


@dataclass(frozen=True)
class Played:
    """What one episode came to, and how many before it were given up because the environment broke."""

    score: float
    frames: int
    terminated: bool
    broken: int = 0


class Seat:
    """One environment that is being played: its simulator and the episode so far."""

    def __init__(self, build: Build, index: int) -> None:
        self.build, self.index = build, index
        self.simulator = build(index)
        self.broken, self.said = 0, ""
        self.terminated: bool | None = None  # None while the episode goes on

    def begin(self) -> None:
        """Start the simulator's next episode."""
        self.first, self.score, self.frames = True, 0.0, 0
        try:
            self.obs = self.simulator.reset()
        except EnvError:
            raise
        except Exception as error:
            text = f"environment {self.index}: reset failed; fix the environment\n  {explain(error)}"
            raise EnvError(text) from error
        self._check_finite(0.0)

    def advance(self, action: np.ndarray) -> None:
        """Take a decision, A; an environment that breaks starts over with another episode."""
        self.first = False
        try:
            step = self.simulator.step(action)
        except EnvError:
            raise
        except Exception as error:  # noqa: BLE001 - counted against env.restarts
            self.broken, self.said = self.broken + 1, explain(error)
            self._replace()
            return
        self.obs, self.score, self.frames = step.obs, self.score + step.reward, self.frames + step.frames
        self._check_finite(step.reward)
        if step.terminated or step.truncated:
            self.terminated = step.terminated

    def _replace(self) -> None:
        episode = self.simulator.episode
        # Whatever a broken simulator does when it is closed must not hide why it broke.
        with contextlib.suppress(Exception):
            self.simulator.close()
        self.simulator = self.build(self.index)
        self.simulator.episode = episode
        self.begin()

    def _check_finite(self, reward: float) -> None:
        bad = [repr(k) for k, v in self.obs.items() if v.dtype != np.uint8 and not np.isfinite(v).all()]
        bad += [] if np.isfinite(reward) else ["the reward"]
        if bad:
            raise EnvError(
                f"environment {self.index}, after {self.frames} frames: {', '.join(bad)} is NaN or infinite; "
                "fix the simulator, or end the episode before it breaks"
            )


def play(
    agent: Any,
    build: Build,
    num: int,
    *,
    seed: int,
    restarts: int = 0,
    stop: Callable[[], bool] = lambda: False,
    watch: Watcher | None = None,
) -> list[Played] | None:
    """Play one episode in each of `num` environments side by side, greedily; None when `stop` asked to leave.

    The batch keeps its size to the end (finished environments are fed their last observation), so the numbers
    do not depend on which episode ends first, and a fresh process gets the same ones.
    """
    generator = torch.Generator(agent.device).manual_seed(seed)
    carry, decision = agent.start(num), 0
    with contextlib.ExitStack() as stack:
        seats = []
        for index in range(num):
            seat = Seat(build, index)
            stack.callback(lambda seat=seat: seat.simulator.close())
            check_fits(agent.spec, seat.simulator.spec)
            seats.append(seat)
            seat.begin()
        while any(seat.terminated is None for seat in seats):
            if stop():
                return None
            obs = observe_seats(seats, agent.device)
            carry, action = agent.act(carry, obs, explore=False, generator=generator)
            decision, chosen = decision + 1, action.cpu().numpy()
            for seat in [seat for seat in seats if seat.terminated is None]:
                seat.advance(chosen[seat.index])
                if sum(each.broken for each in seats) > restarts:
                    raise EnvError(over_budget(restarts, seat.said))
                if seat.index == 0 and watch is not None:
                    watch(decision, seat.simulator)
    return [Played(seat.score, seat.frames, bool(seat.terminated), seat.broken) for seat in seats]


def observe_seats(seats: list[Seat], device: torch.device) -> dict[str, torch.Tensor]:
    """Stack what every seat sees: N ..., and whether its episode begins: N 1."""
    obs = {key: torch.from_numpy(np.stack([s.obs[key] for s in seats])).to(device) for key in seats[0].obs}
    return obs | {"is_init": torch.tensor([[seat.first] for seat in seats], device=device)}


def check_fits(trained: Spec, here: Spec) -> None:
    """Refuse an environment that has other observations or actions than the agent was trained with."""
    if (trained.observation, trained.action) == (here.observation, here.action):
        return
    raise EnvError(
        f"the agent was trained on {trained.name} with {_shapes(trained)}, but {here.name} now has "
        f"{_shapes(here)}; use the version of the environment that it was trained on, or train anew"
    )


def _shapes(spec: Spec) -> str:
    seen = ", ".join(f"{key} {list(array.shape)}" for key, array in spec.observation.items())
    return f"observations {seen} and {spec.action.kind} actions of size {spec.action.size}"


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
    """Play evaluation episodes of an environment config, for training and `evaluate` alike."""
    seed = EVALUATION_SEED + seed

    def build(index: int) -> Simulator:
        return simulator_from_config(env, seed, index)

    try:
        return play(agent, build, episodes, seed=seed, restarts=env.restarts, stop=stop, watch=watch)
    finally:
        _give_memory_back()


def _give_memory_back() -> None:
    """Return freed simulators to the system: glibc would keep some 20 MB per evaluation, scattered."""
    gc.collect()
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)


def summary(played: list[Played]) -> dict[str, float]:
    """Mean, spread and extremes over episodes, as metrics."""
    scores = np.array([episode.score for episode in played])
    metrics = {
        "eval/return": float(scores.mean()),
        "eval/return_std": float(scores.std()),
        "eval/return_min": float(scores.min()),
        "eval/return_max": float(scores.max()),
        "eval/length": float(np.mean([episode.frames for episode in played])),
    }
    broken = sum(episode.broken for episode in played)
    return metrics | {"eval/broken": float(broken)} if broken else metrics

"""Fresh episodes with everything that is true in them, for probes."""

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from agents.rollouts import Seat, check_fits, observe_seats
from envs import simulator_from_config
from envs.truth import truth

PROBE_SEED = 3_000_017  # added to the run's seed: no probed episode is ever a training or evaluation episode


@dataclass(frozen=True)
class Recording:
    """E episodes of up to T decisions, so T + 1 rows; what comes after an end repeats it and is not valid."""

    obs: dict[str, Tensor]  # E T+1 ...
    prev_action: Tensor  # E T+1 A, zero in the first row
    is_first: Tensor  # E T+1
    valid: Tensor  # E T+1
    truth: dict[str, Tensor]  # E T+1 P

    @property
    def episodes(self) -> int:
        """How many there are."""
        return self.valid.shape[0]


def record(
    agent: Any,
    env: Any,
    *,
    episodes: int,
    decisions: int,
    seed: int,
    tell: Callable[[int], None] = lambda _: None,
    stop: Callable[[], bool] = lambda: False,
) -> Recording | None:
    """Play side by side, every other episode at random: a policy alone shows only what it is good at.

    None when `stop` asked to leave.
    """
    generator = torch.Generator(agent.device).manual_seed(PROBE_SEED + seed)
    former, agent.generator = agent.generator, generator
    at_random = (torch.arange(episodes, device=agent.device) % 2 == 1)[:, None]
    rows: list[dict[str, Any]] = []
    with ExitStack() as stack:
        stack.callback(setattr, agent, "generator", former)
        seats = [Seat(lambda i: simulator_from_config(env, PROBE_SEED + seed, i), k) for k in range(episodes)]
        for seat in seats:
            stack.callback(lambda seat=seat: seat.simulator.close())
            check_fits(agent.spec, seat.simulator.spec)
            seat.begin()
        action = torch.zeros(episodes, agent.actions, device=agent.device)
        carry = agent.start(episodes)
        for decision in range(decisions + 1):
            tell(decision)
            if stop():
                return None
            obs = observe_seats(seats, agent.device)
            rows.append(_row(seats, obs, action))
            planned, chosen = agent.act(carry, obs, explore=True)
            _, drawn = agent.random(carry, obs)
            action = torch.where(at_random, drawn, chosen)
            carry = planned._replace(action=action)
            for seat, mine in zip(seats, action.cpu().numpy(), strict=True):
                if seat.terminated is None and not seat.broken and decision < decisions:
                    seat.advance(mine)
    return _recording(rows)


def _row(seats: list[Seat], obs: dict[str, Tensor], action: Tensor) -> dict[str, Any]:
    """What is seen, done and true now; an episode counts up to and with the row that ended it."""
    known = [truth(seat.simulator, seat.obs) for seat in seats]
    return {
        "obs": {key: value.cpu() for key, value in obs.items() if key != "is_init"},
        "action": action.cpu(),
        "ended": torch.tensor([seat.terminated is not None for seat in seats]),
        "broken": torch.tensor([seat.broken > 0 for seat in seats]),  # what is seen is of another episode
        "truth": {name: torch.from_numpy(np.stack([each[name] for each in known])) for name in known[0]},
    }


def _recording(rows: list[dict[str, Any]]) -> Recording:
    ended = torch.stack([row["ended"] for row in rows], 1)
    first = torch.zeros_like(ended)
    first[:, 0] = True
    valid = torch.cat([torch.ones_like(ended[:, :1]), ~ended[:, :-1]], 1)
    valid &= ~torch.stack([row["broken"] for row in rows], 1)
    return Recording(
        obs={key: torch.stack([row["obs"][key] for row in rows], 1) for key in rows[0]["obs"]},
        prev_action=torch.stack([row["action"] for row in rows], 1),
        is_first=first,
        valid=valid,
        truth={key: torch.stack([row["truth"][key] for row in rows], 1) for key in rows[0]["truth"]},
    )

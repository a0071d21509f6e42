"""Fresh episodes with everything that is true in them, for probes."""

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from agents.rollouts import Seat, check_fits, observe_seats
from envs import Spec, simulator_from_config
from envs.nuisance import Nuisance, redraw
from envs.truth import truth

PROBE_SEED = 3_000_017  # added to the run's seed: no probed episode is ever a training or evaluation episode
FEWEST = 4  # episodes that questions need, to keep apart what is fitted and judged
REDRAWN, LOOKS = 6, 8  # rows of an episode that are drawn again, and how often


@dataclass(frozen=True)
class Redrawn:
    """R rows of E episodes under K looks each; the first `shared` of these are the same in all rows."""

    rows: Tensor  # R
    nuisance: Tensor  # E R K P, in [0, 1]
    obs: dict[str, Tensor]  # E R K C Y X
    shared: int

    @property
    def looks(self) -> int:
        """How often every row was drawn."""
        return self.nuisance.shape[2]


@dataclass(frozen=True)
class Recording:
    """E episodes of up to T decisions, so T + 1 rows; what comes after an end repeats it and is not valid."""

    obs: dict[str, Tensor]  # E T+1 ...
    prev_action: Tensor  # E T+1 A, zero in the first row
    is_first: Tensor  # E T+1
    valid: Tensor  # E T+1
    truth: dict[str, Tensor]  # E T+1 P
    redrawn: Redrawn | None = None  # where pictures are seen and can be drawn again

    @property
    def episodes(self) -> int:
        """How many there are."""
        return self.valid.shape[0]

    @property
    def states(self) -> dict[str, Tensor]:
        """What is true now and not always, once, a heading as the point on a circle that it is: E T+1 P."""
        found = {k: v for k, v in self.truth.items() if not k.startswith("constant_") and k != "pose"}
        if "planar_pose" in found:
            place, heading = found["planar_pose"][..., :2], found["planar_pose"][..., 2:]
            found["planar_pose"] = torch.cat([place, heading.cos(), heading.sin()], -1)
        return found


def record(
    agent: Any,
    env: Any,
    *,
    episodes: int,
    decisions: int,
    seed: int,
    looks: int = LOOKS,
    tell: Callable[[int], None] = lambda _: None,
    stop: Callable[[], bool] = lambda: False,
) -> Recording | None:
    """Play side by side, every other episode at random: a policy alone shows only what it is good at.

    Some rows are drawn again under other looks, so many, which changes nothing else. None when `stop` asked
    to leave.
    """
    generator = torch.Generator(agent.device).manual_seed(PROBE_SEED + seed)
    former, agent.generator = agent.generator, generator
    at_random = (torch.arange(episodes, device=agent.device) % 2 == 1)[:, None]
    rows: list[dict[str, Any]] = []
    again = _Again(looks, decisions, agent.spec, np.random.default_rng(PROBE_SEED + seed))
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
            again.draw(decision, seats)
            planned, chosen = agent.act(carry, obs, explore=True)
            _, drawn = agent.random(carry, obs)
            action = torch.where(at_random, drawn, chosen)
            carry = planned._replace(action=action)
            for seat, mine in zip(seats, action.cpu().numpy(), strict=True):
                if seat.terminated is None and not seat.broken and decision < decisions:
                    seat.advance(mine)
    return _recording(rows, again.redrawn())


class _Again:
    """Draws a few rows of all episodes once more, as they could have looked."""

    def __init__(self, looks: int, decisions: int, spec: Spec, random: np.random.Generator) -> None:
        length = decisions if spec.episode_frames is None else spec.episode_frames // spec.action_repeat
        last = max(1, min(length, decisions))
        self.rows = np.unique(np.linspace(1, last, REDRAWN).astype(int)).tolist() if looks else []
        # Half of the looks come back everywhere, so that heads fitted on few looks can be judged on new ones.
        self.random, self.shared = random, [Nuisance.draw(random) for _ in range(looks // 2)]
        self.fresh = looks - len(self.shared)
        self.nuisances: list[Tensor] = []
        self.pictures: list[dict[str, Tensor]] = []

    def draw(self, row: int, seats: list[Seat]) -> None:
        """Draw this row if it is one of them."""
        if row not in self.rows:
            return
        looks = [self.shared + [Nuisance.draw(self.random) for _ in range(self.fresh)] for _ in seats]
        seen = [
            [redraw(seat.simulator, look) for look in mine] for seat, mine in zip(seats, looks, strict=True)
        ]
        self.nuisances.append(torch.tensor(np.array([[look.values for look in mine] for mine in looks])))
        self.pictures.append(
            {key: torch.from_numpy(np.array([[p[key] for p in mine] for mine in seen])) for key in seen[0][0]}
        )

    def redrawn(self) -> Redrawn | None:
        """All of them, or None where there is nothing to draw."""
        if not self.pictures or not self.pictures[0]:
            return None
        return Redrawn(
            rows=torch.tensor(self.rows),
            nuisance=torch.stack(self.nuisances, 1),
            obs={key: torch.stack([each[key] for each in self.pictures], 1) for key in self.pictures[0]},
            shared=len(self.shared),
        )


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


def _recording(rows: list[dict[str, Any]], redrawn: Redrawn | None) -> Recording:
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
        redrawn=redrawn,
    )

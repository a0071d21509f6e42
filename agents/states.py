"""States to pre-train on: what an agent's replay holds, or what random play of an environment shows."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from agents.cli import UserError
from agents.lessons import Tell, nothing_else
from agents.table_lessons import health
from envs.sensors import KEY as MISSING
from worldmodel import Objective, WorldModel
from worldmodel.views import draw_columns

PLAY_SEED = 4_000_037  # added to the run's seed: no episode of training, evaluation or probes
HOLD = 8  # decisions that a random action lasts
JUDGED = 0.2  # of the rows, the last ones


class StateLessons:
    """Rows of vectors whose entries are columns: some are shown, others asked for.

    With several `steps` a table is so many rows of one episode; `keys` grow by one from row to row of one.
    """

    each = 1

    def __init__(self, observations: dict[str, Tensor], keys: Tensor, *, steps: int = 1) -> None:
        self.observations, self.steps = observations, steps
        floats = {key: rows for key, rows in observations.items() if rows.dtype == torch.float32}
        if not floats or len(floats) < len(observations):
            raise UserError(
                "data.kind=states needs vectors alone", "use an environment with observations=state"
            )
        self.columns = steps * sum(rows[0].numel() for key, rows in floats.items() if key != MISSING)
        self.train = int(len(keys) * (1 - JUDGED))  # rows before this one are learned from
        firsts = torch.arange(len(keys) - steps + 1)
        firsts = firsts[keys[firsts + steps - 1] == keys[firsts] + steps - 1]
        self.learned, self.judged = firsts[firsts + steps <= self.train], firsts[firsts >= self.train]
        if min(len(self.learned), 4 * len(self.judged)) < 50:
            raise UserError(f"{len(keys)} rows are too few to learn from", "play or replay more of them")
        observation = {key: {"shape": list(r.shape[1:]), "dtype": "float32"} for key, r in floats.items()}
        self.shapes = {"observation": observation, "action": {"kind": "continuous", "size": self.columns}}

    def prepare(self, model: WorldModel) -> None:
        """Tell the encoder how large its inputs are."""
        model.observe({key: rows[: self.train] for key, rows in self.observations.items()})

    def draw(self, count: int, generator: torch.Generator) -> dict[str, Tensor]:
        """Draw so many rows, and which columns of each are seen and asked for."""
        drawn = torch.randint(len(self.learned), (count,), generator=generator)
        return self._batch(self.learned[drawn], generator)

    def _batch(self, firsts: Tensor, generator: torch.Generator) -> dict[str, Tensor]:
        keep, asked = draw_columns(len(firsts), self.columns, generator)
        masks = {"keep": keep, "asked": asked, "prev_action": torch.zeros(len(firsts), 1, self.columns)}
        return self._seen(firsts) | masks | nothing_else(len(firsts), 1)

    def _seen(self, firsts: Tensor) -> dict[str, Tensor]:
        """The tables that begin with these rows: M -> dict of [M, steps, ...]."""
        rows = firsts[:, None] + torch.arange(self.steps)
        return {key: values[rows] for key, values in self.observations.items()}

    @torch.no_grad()
    def examine(self, objective: Objective, seed: int, home: Path, tell: Tell) -> dict[str, float]:
        """How much of hidden columns' latents is predicted on rows never learned from, and their health.

        The answers are the target's, and what is compared with is their mean for each column.
        """
        model = objective.model
        device = next(model.parameters()).device
        was, _ = objective.training, objective.eval()
        wrong = total = 0.0
        for number, some in enumerate(self.judged.split(512)):
            generator = torch.Generator().manual_seed(seed + number)
            batch = {key: value.to(device) for key, value in self._batch(some, generator).items()}
            outputs = objective.outputs(batch)
            codes = torch.nn.functional.one_hot(batch["asked"], self.columns).float()
            counts = codes.sum((0, 1)).clamp_min(1.0)
            means = torch.einsum("bqn,bqd->nd", codes, outputs.answer) / counts[:, None]
            wrong += float((outputs.prediction - outputs.answer).square().sum())
            total += float((outputs.answer - means[batch["asked"]]).square().sum())
            tell("tables judged", 512 * number + len(some))
        seen = {key: values.to(device) for key, values in self._seen(self.judged[:2048]).items()}
        tokens = model.encode(seen).cpu()
        objective.train(was)
        return {"predicted/r2": 1 - wrong / max(total, 1e-12), **health(tokens)}


def read_states(data: Any, seed: int, tell: Tell) -> tuple[dict[str, Tensor], Tensor]:
    """The observations that the settings name, oldest first, and their keys: dict of [R, ...], R."""
    if data.run:
        from agents.loading import load_observations

        return load_observations(data.run)
    return _play(data.env, data.rows, seed, tell)


def _play(name: str, rows: int, seed: int, tell: Tell) -> tuple[dict[str, Tensor], Tensor]:
    """Play an environment at random, each action for a while."""
    from agents.config import load_config
    from envs import simulator_from_config

    simulator = simulator_from_config(load_config([f"env={name}"]).env, PLAY_SEED + seed, 0)
    random, seen, keys = np.random.default_rng(PLAY_SEED + seed), [], []
    try:
        over, size, episodes = True, simulator.spec.action.size, 0
        action = np.zeros(size, np.float32)
        while len(seen) < rows:
            if over:
                obs, over, episodes = simulator.reset(), False, episodes + 1
            else:
                if random.random() < 1 / HOLD or not action.any():
                    action = random.uniform(-1, 1, size).astype(np.float32)
                step = simulator.step(action)
                obs, over = step.obs, step.terminated or step.truncated
            seen.append(obs)
            keys.append(episodes + len(seen))
            tell("rows played", len(seen))
    finally:
        simulator.close()
    observations = {key: torch.from_numpy(np.stack([obs[key] for obs in seen])) for key in seen[0]}
    return observations, torch.tensor(keys)

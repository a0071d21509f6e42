"""States to pre-train on: what an agent's replay holds, or what random play of an environment shows."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from agents.cli import UserError
from agents.lessons import Tell, nothing_else
from agents.tables import health
from envs.sensors import KEY as MISSING
from worldmodel import Objective, WorldModel
from worldmodel.views import draw_columns

PLAY_SEED = 4_000_037  # added to the run's seed: no episode of training, evaluation or probes
HOLD = 8  # decisions that a random action lasts
JUDGED = 0.2  # of the rows, the last ones


class StateLessons:
    """Rows of vectors whose entries are columns: some are shown, others asked for."""

    each = 1

    def __init__(self, observations: dict[str, Tensor]) -> None:
        self.observations = observations
        floats = {key: rows for key, rows in observations.items() if rows.dtype == torch.float32}
        if not floats or len(floats) < len(observations):
            raise UserError(
                "data.kind=states needs vectors alone", "use an environment with observations=state"
            )
        self.columns = sum(rows[0].numel() for key, rows in floats.items() if key != MISSING)
        count = len(next(iter(floats.values())))
        self.train = int(count * (1 - JUDGED))
        if self.train < 50:
            raise UserError(f"{count} rows are too few to learn from", "play or replay more of them")
        observation = {key: {"shape": list(r.shape[1:]), "dtype": "float32"} for key, r in floats.items()}
        self.shapes = {"observation": observation, "action": {"kind": "continuous", "size": self.columns}}

    def prepare(self, model: WorldModel) -> None:
        """Tell the encoder how large its inputs are."""
        model.observe({key: rows[: self.train] for key, rows in self.observations.items()})

    def draw(self, count: int, generator: torch.Generator) -> dict[str, Tensor]:
        """Draw so many rows, and which columns of each are seen and asked for."""
        return self._batch(torch.randint(self.train, (count,), generator=generator), generator)

    def _batch(self, rows: Tensor, generator: torch.Generator) -> dict[str, Tensor]:
        keep, asked = draw_columns(len(rows), self.columns, generator)
        seen = {key: values[rows, None] for key, values in self.observations.items()}
        masks = {"keep": keep, "asked": asked, "prev_action": torch.zeros(len(rows), 1, self.columns)}
        return seen | masks | nothing_else(len(rows), 1)

    @torch.no_grad()
    def examine(self, objective: Objective, seed: int, home: Path, tell: Tell) -> dict[str, float]:
        """How much of hidden columns' latents is predicted on rows never learned from, and their health.

        The answers are the target's, and what is compared with is their mean for each column.
        """
        count, model = len(next(iter(self.observations.values()))), objective.model
        device = next(model.parameters()).device
        rows = torch.arange(self.train, count)
        was, _ = objective.training, objective.eval()
        wrong = total = 0.0
        for number, some in enumerate(rows.split(512)):
            generator = torch.Generator().manual_seed(seed + number)
            batch = {key: value.to(device) for key, value in self._batch(some, generator).items()}
            outputs = objective.outputs(batch)
            codes = torch.nn.functional.one_hot(batch["asked"], self.columns).float()
            counts = codes.sum((0, 1)).clamp_min(1.0)
            means = torch.einsum("bqn,bqd->nd", codes, outputs.answer) / counts[:, None]
            wrong += float((outputs.prediction - outputs.answer).square().sum())
            total += float((outputs.answer - means[batch["asked"]]).square().sum())
            tell("rows judged", int(some[-1]) - self.train + 1)
        seen = {key: values[rows[:2048], None].to(device) for key, values in self.observations.items()}
        tokens = model.encode(seen).cpu()
        objective.train(was)
        return {"predicted/r2": 1 - wrong / max(total, 1e-12), **health(tokens)}


def read_states(data: Any, seed: int, tell: Tell) -> dict[str, Tensor]:
    """The observations that the settings name, oldest first: dict of [R, ...]."""
    if data.run:
        from agents.loading import load_observations

        return load_observations(data.run)
    return _play(data.env, data.rows, seed, tell)


def _play(name: str, rows: int, seed: int, tell: Tell) -> dict[str, Tensor]:
    """Play an environment at random, each action for a while."""
    from agents.config import load_config
    from envs import simulator_from_config

    simulator = simulator_from_config(load_config([f"env={name}"]).env, PLAY_SEED + seed, 0)
    random, seen = np.random.default_rng(PLAY_SEED + seed), []
    try:
        over, size = True, simulator.spec.action.size
        action = np.zeros(size, np.float32)
        while len(seen) < rows:
            if over:
                obs, over = simulator.reset(), False
            else:
                if random.random() < 1 / HOLD or not action.any():
                    action = random.uniform(-1, 1, size).astype(np.float32)
                step = simulator.step(action)
                obs, over = step.obs, step.terminated or step.truncated
            seen.append(obs)
            tell("rows played", len(seen))
    finally:
        simulator.close()
    return {key: torch.from_numpy(np.stack([obs[key] for obs in seen])) for key in seen[0]}

"""A trained agent from disk, for everything that acts with one: evaluate, play, probes."""

import sys
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from agents import checkpoint
from agents.actor_critic import ActorCritic
from agents.assembly import build_agent, choose_device, set_threads
from agents.cli import UserError
from agents.config import read_config
from agents.replay import make_replay
from agents.rundir import Found, find_run
from envs import Spec


class Loaded(NamedTuple):
    """An agent from disk, with what it was trained on."""

    agent: ActorCritic
    config: Any
    spec: Spec
    frames: int
    path: Path
    run: Path | None


def load_run(
    text: str,
    device: str = "cpu",
    *,
    entry: str | None = None,
    planner: str | None = None,
    horizon: int | None = None,
) -> Loaded:
    """Load the newest agent of a run (or the one of a checkpoint); nothing in the files can name code.

    `planner` and `horizon` (decisions looked ahead in evaluation) act otherwise than it was trained to.
    """
    found = find_run(text)
    path = _good_checkpoint(found)
    saved = checkpoint.load(path, only={"weights", "state", "config"})
    cfg = read_config(path / "config.json", entry=entry)
    spec = Spec.from_json(saved.documents["state"]["spec"])
    cfg.agent.compile = False  # acting never runs the update
    cfg.agent.planner = planner or cfg.agent.planner
    if horizon is not None and cfg.agent.planner == "none":
        raise UserError(f"horizon={horizon} needs a planner, and this agent acts without", "use planner=mppi")
    cfg.agent.plan.eval_horizon = horizon or cfg.agent.plan.eval_horizon
    set_threads(saved.documents["state"]["threads"])  # another thread count may round differently
    agent = build_agent(cfg, spec, choose_device(device))
    agent.load_weights(saved.tensors["weights"])
    frames = saved.documents["state"]["progress"]["counters"]["frames"]
    return Loaded(agent, cfg, spec, frames, saved.path, found.run)


def _good_checkpoint(found: Found) -> Path:
    """The checkpoint to load, with a word about newer ones that are damaged."""
    newest = next(iter(checkpoint.retained(found.run / "checkpoints")), None) if found.run else None
    if found.checkpoint is None and newest is None:
        raise UserError(f"{found.run} has no checkpoint yet", "train it a little longer")
    if found.checkpoint is None:
        raise UserError(f"every checkpoint of {found.run} is damaged", "restore the run from a copy")
    if newest is not None and not checkpoint.is_good(newest):
        print(f"warning: {newest} is damaged; this is {found.checkpoint.name}", file=sys.stderr)
    return found.checkpoint


def load_observations(text: str) -> tuple[dict[str, Tensor], Tensor]:
    """Read what a run's replay saw, oldest first: dict of [R, ...], and R keys.

    A key is one more than the last where an episode goes on.
    """
    found = find_run(text)
    if found.run is None:
        raise UserError(f"{text} is no run directory", "name one, or last")
    path = _good_checkpoint(found)
    saved = checkpoint.load(path, only={"state", "config"})
    cfg = read_config(path / "config.json", inert=True)
    spec = Spec.from_json(saved.documents["state"]["spec"])
    replay = make_replay(
        {key: (array.shape, array.dtype) for key, array in spec.observation.items()},
        spec.action.size,
        capacity=cfg.replay.capacity,
        expected=2 * -(-cfg.trainer.frames // spec.action_repeat),
        num_envs=cfg.env.num,
        window=cfg.agent.window + 1,
        batch=1,
    )
    replay.restore(found.run / "replay", saved.documents["state"]["replay"])
    ring = replay.ring
    content = ring.dump(ring.since(torch.zeros_like(ring.written)))
    return {key: content[f"field.{key}"] for key in spec.observation}, content["keys"]

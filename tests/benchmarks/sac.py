"""SAC of Stable-Baselines3 with its defaults on an environment of ours, as rows of evidence.

    pip install -e ".[sb3]"
    python tests/benchmarks/sac.py env=dmc_walker trainer.frames=300000 record=tests/evidence/wallclock.csv

The environment, its action repeat and the evaluation episodes are those of `agents.train`; seconds count
everything, evaluation included, as ours do.
"""

import csv
import shlex
import sys
import time
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import torch
from stable_baselines3 import SAC

from agents.config import env_name, load_config
from agents.evidence import COLUMNS
from agents.provenance import describe_code
from agents.rollouts import EVALUATION_SEED
from envs import simulator_from_config


class Flat(gymnasium.Env):
    """A simulator of ours with one vector of observations, as Gymnasium's interface has it."""

    def __init__(self, cfg: Any, seed: int, index: int = 0) -> None:
        self.simulator = simulator_from_config(cfg.env, seed, index)
        spec = self.simulator.spec
        (array,) = spec.observation.values()
        self.observation_space = gymnasium.spaces.Box(-np.inf, np.inf, array.shape, np.float32)
        self.action_space = gymnasium.spaces.Box(-1.0, 1.0, (spec.action.size,), np.float32)

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[np.ndarray, dict]:
        """Begin the simulator's next episode."""
        return self.simulator.reset()["state"], {}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict]:
        """Take one decision."""
        step = self.simulator.step(action.astype(np.float32))
        return step.obs["state"], step.reward, step.terminated, step.truncated, {}


def evaluate(model: SAC, cfg: Any) -> float:
    """Mean return of the run's evaluation episodes, without noise."""
    scores = []
    for index in range(cfg.trainer.eval_episodes):
        env = Flat(cfg, EVALUATION_SEED + cfg.seed, index)
        obs, score, over = env.reset()[0], 0.0, False
        while not over:
            obs, reward, terminated, truncated, _ = env.step(model.predict(obs, deterministic=True)[0])
            score, over = score + reward, terminated or truncated
        env.simulator.close()
        scores.append(score)
    return float(np.mean(scores))


def main(argv: list[str]) -> None:
    """Train, and append a row after every evaluation."""
    record = Path(next(word for word in argv if word.startswith("record=")).partition("=")[2])
    cfg = load_config([word for word in argv if not word.startswith("record=")])
    torch.set_num_threads(cfg.trainer.threads)
    start, env = time.monotonic(), Flat(cfg, cfg.seed)
    model = SAC("MlpPolicy", env, seed=cfg.seed, device="cpu", learning_starts=cfg.trainer.warmup_frames // 2)
    repeat = env.simulator.spec.action_repeat
    fresh = not record.exists()
    command = shlex.join(["python", "tests/benchmarks/sac.py", *argv])
    evaluating = 0.0
    for frames in range(cfg.trainer.eval_every, cfg.trainer.frames + 1, cfg.trainer.eval_every):
        model.learn(cfg.trainer.eval_every // repeat, reset_num_timesteps=False)
        before = time.monotonic()
        value, seconds = evaluate(model, cfg), time.monotonic() - start
        evaluating += time.monotonic() - before
        times = f"{seconds:,.0f} s, {evaluating:,.0f} s of it evaluating"
        print(f"{frames:,} frames, return {value:.1f}, {times}", flush=True)
        commit = (describe_code() or {}).get("commit") or "unknown"
        row = ["wallclock", env_name(cfg.env), "SAC of Stable-Baselines3", cfg.seed, frames, "eval/return"]
        with record.open("a", newline="") as file:
            writer = csv.writer(file, lineterminator="\n")
            if fresh:
                writer.writerow(COLUMNS)
            fresh = False
            writer.writerow([*row, repr(value), f"{seconds:.1f}", commit, command])


if __name__ == "__main__":
    main(sys.argv[1:])

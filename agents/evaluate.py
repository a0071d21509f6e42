"""Evaluate a trained agent: python -m agents.evaluate run=last.

examples:
  python -m agents.evaluate run=last
  python -m agents.evaluate run=runs/dmc_walker_walk/s0-… episodes=20 planner=none
  python -m agents.evaluate run=last horizon=3
  python -m agents.evaluate run=runs/dmc_walker_walk/s0-…/checkpoints/000050000
"""

import json
import sys
from dataclasses import asdict, dataclass
from pathlib import Path

from agents.cli import option, run_command


@dataclass
class Evaluate:
    """Play episodes with a trained agent and print their returns."""

    run: str = option(text="run directory, one of its checkpoints, or last")
    episodes: int | None = option(
        None, "episodes to play (default: as many as in training)", low=1, high=10_000
    )
    seed: int | None = option(
        None, "seed of the episodes (default: the run's, which repeats the logged ones)", low=0
    )
    planner: str | None = option(None, "what chooses actions (default: as trained)", choices=("none", "mppi"))
    horizon: int | None = option(
        None, "decisions that the planner looks ahead (default: as in the run's evaluations)", low=1, high=100
    )
    device: str = option("cpu", "auto, cpu or cuda (only the device of training repeats its numbers exactly)")
    entry: str | None = option(
        None, "your environment factory, if the run used one: it is code, so name it again"
    )
    out: Path | None = option(None, "also write the result to this JSON file")


def evaluate(options: Evaluate) -> int:
    """Play episodes with a trained agent and print their returns."""
    from agents.config import env_name
    from agents.durable import disk_errors
    from agents.loading import load_run
    from agents.rollouts import evaluate_episodes, summary

    loaded = load_run(
        options.run, options.device, entry=options.entry, planner=options.planner, horizon=options.horizon
    )
    episodes = options.episodes or loaded.config.trainer.eval_episodes
    seed = loaded.config.seed if options.seed is None else options.seed
    played = evaluate_episodes(loaded.agent, loaded.config.env, episodes, seed)
    assert played is not None
    for index, episode in enumerate(played):
        print(f"episode {index:3d}  return {episode.score:10.3f}  {episode.frames:6d} frames")
    metrics = summary(played)
    mean, spread = metrics["eval/return"], metrics["eval/return_std"]
    low, high = metrics["eval/return_min"], metrics["eval/return_max"]
    print(
        f"{env_name(loaded.config.env)} at {loaded.frames:,} frames: {mean:.2f} ± {spread:.2f}"
        f" over {episodes} episodes (min {low:.2f}, max {high:.2f})"
    )
    if options.out:
        result = {
            "run": str(loaded.path),
            "frames": loaded.frames,
            "seed": seed,
            "planner": loaded.agent.cfg.planner,
            "horizon": loaded.agent.horizon(explore=False),
        }
        result |= {"episodes": [asdict(episode) for episode in played], **metrics}
        with disk_errors(options.out), open(options.out, "w", encoding="utf-8") as file:
            json.dump(result, file, indent=1)
    return 0


def main(argv: list[str] | None = None) -> int:
    """Run the command line."""
    return run_command("evaluate", evaluate, argv, options=Evaluate)


if __name__ == "__main__":
    sys.exit(main())

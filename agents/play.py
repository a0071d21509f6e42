"""Film a trained agent: python -m agents.play run=last.

examples:
  python -m agents.play run=last
  python -m agents.play run=last episodes=3 size=480 planner=none
"""

import sys
from dataclasses import dataclass
from pathlib import Path

from agents.cli import UserError, option, run_command


@dataclass
class Play:
    """Play episodes with a trained agent and write a film of them."""

    run: str = option(text="run directory, one of its checkpoints, or last")
    episodes: int = option(1, "episodes to film", low=1, high=1000)
    seed: int = option(0, "seed of the episodes", low=0)
    size: int = option(320, "width and height in pixels", low=16, high=2048)
    stride: int = option(1, "film every n-th decision", low=1)
    quality: str = option("full", "with shadows and reflections, or without", choices=("fast", "full"))
    planner: str | None = option(None, "what chooses actions (default: as trained)", choices=("none", "mppi"))
    device: str = option("cpu", "auto, cpu or cuda")
    entry: str | None = option(
        None, "your environment factory, if the run used one: it is code, so name it again"
    )
    out: str | None = option(
        None, "the mp4 file, or its beginning for several (default: in the run's videos/)"
    )


def play(options: Play) -> int:
    """Play episodes with a trained agent and write a film of them."""
    from agents.loading import load_run
    from agents.rollouts import PLAY_SEED
    from agents.rollouts import play as play_episodes
    from agents.video import Recorder, require_rendering
    from envs import Simulator, simulator_from_config

    loaded = load_run(options.run, options.device, entry=options.entry, planner=options.planner)
    env = loaded.config.env
    require_rendering(env)
    home = (loaded.run or loaded.path) / "videos"
    recorder = Recorder(size=options.size, stride=options.stride, quality=options.quality)
    out = Path(options.out) if options.out else home / f"play-{loaded.frames:09d}-s{options.seed}.mp4"
    if out.suffix != ".mp4":
        raise UserError(f"out={out} is not an mp4 file", f"use out={out.with_suffix('.mp4')}")
    for index in range(options.episodes):
        path = out.with_name(f"{out.stem}-{index}{out.suffix}") if options.episodes > 1 else out

        def build(_: int, index: int = index) -> Simulator:
            return simulator_from_config(env, PLAY_SEED + options.seed, index)

        with recorder.film(path) as watch:
            played = play_episodes(
                loaded.agent, build, 1, seed=options.seed, restarts=env.restarts, watch=watch
            )
        assert played is not None
        print(f"return {played[0].score:.2f} in {played[0].frames} frames: {path}")
    return 0


def main(argv: list[str] | None = None) -> int:
    """Run the command line."""
    return run_command("play", play, argv, options=Play)


if __name__ == "__main__":
    sys.exit(main())

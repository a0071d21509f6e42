"""Train an agent: python -m agents.train env=dmc_walker."""

import sys
from contextlib import ExitStack
from typing import Any

from agents.cli import run_command


def train(cfg: Any) -> int:
    """Train until the frame budget is spent; the same command again resumes where the last one stopped."""
    from agents.config import config_dict, config_hash, env_name, save_yaml
    from agents.rundir import open_run
    from agents.stopping import Stopper

    name = env_name(cfg.env)
    with (
        Stopper() as stop,
        open_run(
            cfg.run.root,
            name,
            cfg.seed,
            config_hash(cfg),
            config=config_dict(cfg),
            dir=cfg.run.dir,
            fresh=cfg.run.fresh,
            device=cfg.device,
        ) as run,
        ExitStack() as closing,
    ):
        stop.impatient = True  # nothing is lost before training begins
        save_yaml(cfg, run.path / "config.yaml")
        from agents.session import Session  # torch and the simulators load here, after every cheap check

        session = Session(cfg, run, stop, closing)
        stop.impatient = False
        finished = session.run()
        closing.close()
        counters = session.progress.counters
        state = "finished" if finished else "stopped; the same command goes on"
        print(f"{state}: {counters.frames:,} frames, {counters.updates:,} updates, {run.path}")
        if finished:
            print(
                f"look: python -m agents.plot runs={run.path}   watch: python -m agents.play run={run.path}"
            )
        return stop.exit_code


def main(argv: list[str] | None = None) -> int:
    """Run the command line."""
    return run_command("train", train, argv)


if __name__ == "__main__":
    sys.exit(main())

"""What a trained world model knows, read from fresh rollouts: python -m agents.probe run=last.

examples:
  python -m agents.probe run=last
  python -m agents.probe run=runs/dmc_walker/s0-… episodes=40 horizons=1,5,10 heads=linear
  python -m agents.probe checkpoint=runs/dmc_walker/s0-…/checkpoints/000050000 env=dmc_walker_run
"""

import sys
from dataclasses import dataclass
from pathlib import Path

from agents.cli import UserError, option, run_command


@dataclass
class Probe:
    """Probe a trained world model on fresh episodes, every number between its floor and its ceiling."""

    run: str | None = option(None, "run directory, one of its checkpoints, or last")
    checkpoint: str | None = option(None, "the same, by its other name")
    env: str | None = option(None, "another environment with the same observations (default: as trained)")
    episodes: int = option(24, "episodes, every other one at random", low=4, high=10_000)
    decisions: int = option(200, "decisions per episode", low=4, high=100_000)
    horizons: list[int] = option(
        text="decisions ahead (default 1,2,3,5,8,12)", factory=lambda: [1, 2, 3, 5, 8, 12]
    )
    heads: list[str] = option(text="linear and/or mlp (default both)", factory=lambda: ["linear", "mlp"])
    seed: int = option(0, "of episodes, heads and the untrained twin", low=0)
    device: str = option("cpu", "auto, cpu or cuda")
    entry: str | None = option(
        None, "your environment factory, if the run used one: it is code, so name it again"
    )
    out: Path | None = option(None, "folder of the report (default: probes/ in the run)")


def probe(options: Probe) -> int:
    """Record episodes, ask every question and write report.json, report.html and pictures."""
    from agents import probe_report
    from agents.config import load_config
    from agents.invariance import omitted
    from agents.loading import load_run
    from agents.probing import interview
    from agents.progress import counting
    from worldmodel.probes import HEADS

    path = _which(options)
    for head in options.heads:
        if head not in HEADS:
            raise UserError(f"heads={head!r} is unknown", f"choose from {', '.join(HEADS)}")
    if not options.horizons or min(options.horizons) < 1 or max(options.horizons) > options.decisions - 2:
        fix = f"choose horizons from 1 to {options.decisions - 2}, or more decisions"
        raise UserError(f"horizons={','.join(map(str, options.horizons))} do not fit the episodes", fix)
    loaded = load_run(path, options.device, entry=options.entry)
    env = load_config([f"env={options.env}"]).env if options.env else loaded.config.env
    with counting() as tell:
        found = interview(
            loaded.agent,
            loaded.config,
            loaded.spec,
            env=env,
            episodes=options.episodes,
            decisions=options.decisions,
            horizons=options.horizons,
            heads=options.heads,
            seed=options.seed,
            tell=tell,
        )
    assert found is not None
    answers, rows = found
    place = f"{loaded.frames:09d}-s{options.seed}" + (f"-{options.env}" if options.env else "")
    home = options.out or (loaded.run or loaded.path) / "probes" / place
    about = {
        "run": str(loaded.path),
        "env": options.env or loaded.spec.name,
        "frames": loaded.frames,
        "seed": options.seed,
        "episodes": options.episodes,
        "decisions": options.decisions,
        "rows": rows,
    }
    if left_out := omitted(loaded.spec, answers):
        about["left out"] = left_out
    probe_report.write(home, about, answers)
    for line in probe_report.headlines(answers):
        print(line)
    print(home / "report.html")
    return 0


def _which(options: Probe) -> str:
    given = [name for name in (options.run, options.checkpoint) if name]
    if len(given) != 1:
        text = "nothing to probe" if not given else "run and checkpoint are both given"
        raise UserError(text, "add run=last, run=DIRECTORY or checkpoint=DIRECTORY (one of them)")
    return given[0]


def main(argv: list[str] | None = None) -> int:
    """Run the command line."""
    return run_command("probe", probe, argv, options=Probe)


if __name__ == "__main__":
    sys.exit(main())

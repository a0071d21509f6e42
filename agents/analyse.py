"""What is learned first, what is kept of noise, what dead sensors cost: python -m agents.analyse.

examples:
  python -m agents.analyse experiment=linear
  python -m agents.analyse experiment=linear depths=1,2,4 start=1e-3 cov=1,0.85,0.5 rho=0.4,0.9,0.7
  python -m agents.analyse experiment=distractors runs=runs/dmc_walker_walk_noise50
  python -m agents.analyse experiment=sensors runs=runs/dmc_walker drops=0,0.3
"""

import json
import shlex
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from agents.cli import UserError, option, run_command
from agents.durable import disk_errors, replace_file

EXPERIMENTS = ("linear", "distractors", "sensors")
DEEPEST = 8  # of the turning points


@dataclass
class Analyse:
    """Hold linear networks against their theory, or trained agents against noise and dead sensors."""

    experiment: str = option("linear", "what is analysed", choices=EXPERIMENTS)
    depths: list[int] = option(
        text="linear: layers of the encoder (default 1,2,3)", factory=lambda: [1, 2, 3]
    )
    start: float = option(0.01, "linear: strength of a feature at the start", low=1e-8, high=1.0)
    cov: list[float] = option(
        text="linear: covariance of each feature (default 1,0.85)", factory=lambda: [1.0, 0.85]
    )
    rho: list[float] = option(
        text="linear: its regression coefficient (default 0.4,0.9)", factory=lambda: [0.4, 0.9]
    )
    sgd: bool = option(True, "linear: train two layers by SGD as well (a minute)")
    runs: list[str] = option(
        text="distractors, sensors: run directories, folders of them or last (default: all below runs)",
        factory=lambda: ["runs/*"],
    )
    drops: list[float] = option(
        text="sensors: shares that are dead (default 0,0.1,0.3,0.5)", factory=lambda: [0.0, 0.1, 0.3, 0.5]
    )
    episodes: int = option(10, "sensors: evaluated with each share", low=1, high=10_000)
    entry: str | None = option(
        None, "your environment factory, if the runs used one: it is code, so name it again"
    )
    out: Path | None = option(None, "folder of the answers (default: runs/analysis/EXPERIMENT)")
    record: Path | None = option(None, "evidence file (CSV) to add every answer to")


class Findings(NamedTuple):
    """What an analysis found: to be read, to be kept, to be recorded and to be seen."""

    lines: list[str]
    answers: Any
    rows: Iterable[dict[str, str]]
    draw: Callable[[Path], None]


def analyse(options: Analyse) -> int:
    """Print what was found; write it as JSON and as a picture."""
    from agents.progress import counting

    home = options.out or Path("runs/analysis") / options.experiment
    with counting() as tell:
        found = STUDIES[options.experiment](options, tell)
    with disk_errors(home):
        home.mkdir(parents=True, exist_ok=True)
        replace_file(home / f"{options.experiment}.json", json.dumps(found.answers, indent=1).encode())
        picture = home / f"{options.experiment}.png"
        found.draw(picture)
    print("\n".join(found.lines))
    if options.record:
        from agents.evidence import append_rows

        print(f"{append_rows(options.record, found.rows)} new rows in {options.record}")
    print(picture)
    return 0


def _linear(options: Analyse, tell: Any) -> Findings:
    if len(options.cov) != len(options.rho) or len(options.cov) < 2:
        text = f"cov={_listed(options.cov)} and rho={_listed(options.rho)} do not describe the same features"
        raise UserError(text, "give as many of both, and at least two")
    if not options.depths or min(options.depths) < 1 or max(options.depths) > DEEPEST:
        raise UserError(f"depths={_listed(options.depths)}", f"choose depths from 1 to {DEEPEST}")
    import torch

    from agents import theory
    from worldmodel.linear import Feature

    torch.set_num_threads(1)  # matrices of a few rows
    features = [Feature(c, r) for c, r in zip(options.cov, options.rho, strict=True)]
    curves = theory.study(features, options.depths, options.start, tell, sgd=options.sgd)
    noisy, clean = (pick(features, key=lambda f: f.rho) for pick in (min, max))
    starts = sorted({options.start, 1e-2, 1e-3, 1e-4}, reverse=True)
    turns = theory.turning_points(noisy, clean, starts, DEEPEST)
    answers = {
        "features": [{"cov": f.cov, "rho": f.rho} for f in features],
        "networks": [
            {
                "how": c.how,
                "answer": c.answer,
                "depth": c.depth,
                "start": c.start,
                "error": c.error,
                "times": c.times.tolist(),
                "strengths": c.strengths.tolist(),
                "theory": c.expected.tolist(),
            }
            for c in curves
        ],
        "turning points": turns,
    }
    rows = _rows_of_theory(curves, turns)
    return Findings(
        list(theory.lines_of(curves, features, turns)),
        answers,
        rows,
        lambda p: theory.draw(curves, turns, p),
    )


def _rows_of_theory(curves: Any, turns: dict[str, Any]) -> Iterator[dict[str, str]]:
    from agents.provenance import describe_code, spell_commit

    usual = {"experiment": "linear", "env": "features", "seed": "0", "frames": "0", "wall_s": ""}
    usual |= {
        "commit": spell_commit(describe_code()),
        "command": shlex.join(["python", "-m", "agents.analyse", *sys.argv[1:]]),
    }
    for curve in curves:
        method = f"{curve.answer} depth {curve.depth} {curve.how}"
        yield usual | {"method": method, "metric": "error", "value": f"{curve.error:.3e}"}
    for name, turn in turns.items():
        for depth, ratio in enumerate(turn["ratios"], start=1):
            method = f"{name.split()[0]} depth {depth}"
            yield usual | {
                "method": method,
                "metric": f"time_ratio@{name.split()[1]}",
                "value": f"{ratio:.5f}",
            }


def _distractors(options: Analyse, tell: Any) -> Findings:
    from agents import noise

    found = noise.judge(options.runs, tell, options.entry)
    answers = [
        {"run": str(one.run.path), "method": one.method, "channels": one.channels, "seed": one.run.seed}
        | one.values
        for one in found
    ]
    lines, rows = list(noise.lines_of(found)), noise.rows_of(found)
    return Findings(lines, answers, rows, lambda p: noise.draw(found, p))


def _sensors(options: Analyse, tell: Any) -> Findings:
    if not options.drops or min(options.drops) < 0 or max(options.drops) > 1:
        raise UserError(f"drops={_listed(options.drops)}", "choose shares from 0 to 1")
    from agents import breakage

    found = breakage.judge(options.runs, options.drops, options.episodes, tell, options.entry)
    answers = [
        {"run": str(one.run.path), "method": one.method, "seed": one.run.seed, "returns": one.scores}
        for one in found
    ]
    lines, rows = list(breakage.lines_of(found)), breakage.rows_of(found)
    return Findings(lines, answers, rows, lambda p: breakage.draw(found, p))


STUDIES: dict[str, Callable[[Analyse, Any], Findings]] = {
    "linear": _linear,
    "distractors": _distractors,
    "sensors": _sensors,
}


def _listed(values: Iterable[float]) -> str:
    return ",".join(f"{value:g}" for value in values)


def main(argv: list[str] | None = None) -> int:
    """Run the command line."""
    return run_command("analyse", analyse, argv, options=Analyse)


if __name__ == "__main__":
    sys.exit(main())

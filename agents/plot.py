"""Learning curves of runs, or of recorded evidence, with 95 % bootstrap bands over seeds.

python -m agents.plot runs=last
python -m agents.plot runs=runs/dmc_walker/*
python -m agents.plot runs=runs/dmc_walker/* x=wall out=walker.png
python -m agents.plot runs=runs/dmc_walker/* record=tests/evidence/walker.csv method=ours experiment=walker
python -m agents.plot evidence=tests/evidence/walker.csv method=ours,theirs
python -m agents.plot evidence=tests/evidence/dmc.csv together=true statistic=iqm
python -m agents.plot evidence=tests/evidence/walker.csv at=50000,100000 baseline=tests/evidence/published.csv
"""

import sys
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from agents.cli import UserError, option, run_command

if TYPE_CHECKING:
    from agents.drawing import Panels
    from agents.evidence import Curve, RunRecord

PICTURES = (".png", ".pdf", ".svg")


@dataclass
class Plot:
    """What to draw, and where the picture goes."""

    runs: list[str] = option(text="run directories, patterns or last, separated by commas", factory=list)
    evidence: Path | None = option(None, "an evidence file (CSV) instead of runs")
    out: Path | None = option(None, "the picture (default: beside the run or the evidence)")
    metric: str = option("eval/return", "what to draw")
    x: str = option("frames", "horizontal axis", choices=("frames", "wall"))
    statistic: str = option("mean", "over seeds (with together, over environments)", choices=("mean", "iqm"))
    together: bool = option(False, "one panel over all environments instead of one for each")
    baseline: list[Path] = option(text="evidence files to draw beside it, dashed", factory=list)
    at: list[int] = option(text="print a table (Markdown) of these frames instead of drawing", factory=list)
    record: Path | None = option(None, "append the runs to this evidence file instead of drawing")
    method: str = option("", "name in the legend or the record; of evidence: only these, with commas")
    experiment: str = option("", "name of the experiment in the evidence")


def plot(options: Plot) -> int:
    """Draw the curves of runs or of evidence as a PNG, and print where each curve ends."""
    from agents.drawing import draw, separate, together
    from agents.durable import disk_errors
    from agents.evidence import curves_of, read_evidence, read_runs, record_runs

    if bool(options.runs) == bool(options.evidence):
        fix = "add runs=runs/ENV/* or evidence=FILE.csv (one of them)"
        raise UserError("nothing to draw" if not options.runs else "runs and evidence are both given", fix)
    if (options.record or options.at) and (options.out or options.together or options.x != "frames"):
        fix = "leave out record= and at= to draw"
        raise UserError("out, together and x belong to a picture, and none is drawn", fix)
    runs = read_runs(options.runs) if options.runs else []
    if options.record:
        if not (runs and options.method and options.experiment):
            raise UserError(
                "record needs runs, a method and an experiment", "add runs=… method=ours experiment=NAME"
            )
        curves_of(runs, options.metric)  # a mistyped metric is an error, not zero rows
        chosen = {"metric": options.metric, "method": options.method, "experiment": options.experiment}
        print(f"{record_runs(runs, options.record, **chosen)} new rows in {options.record}")
        return 0
    if options.evidence:
        curves = only(read_evidence(options.evidence, options.metric), options.method)
    else:
        curves = curves_of(runs, options.metric, options.method)
    shown = {curve.env for curve in curves}
    others = [c for path in options.baseline for c in read_evidence(path, options.metric) if c.env in shown]
    if options.x == "wall":  # what was published has no times of this machine
        timeless = {c.method for c in others if not c.timed}
        others = [c for c in others if c.method not in timeless]
        if timeless:
            print(f"not drawn, since without times: {', '.join(sorted(timeless))}")
    if options.at:
        from agents.score_table import markdown

        print("\n".join(markdown(curves, others, options.at)))
        return 0
    out = options.out or _default_out(options, runs)
    if out.suffix not in PICTURES:
        fix = f"use one of {', '.join(PICTURES)}, as in out=curves.png"
        raise UserError(f"out={out} is not a picture", fix)
    panels = (together if options.together else separate)(curves, others, options.x, options.statistic)
    with disk_errors(out):
        out.parent.mkdir(parents=True, exist_ok=True)
        draw(panels, out, metric=options.metric, x=options.x)
    for line in summarise(panels, options.x):
        print(line)
    drawn = {line.method for lines in panels.values() for line in lines}
    if absent := sorted({curve.method for curve in curves + others} - drawn):
        print(f"not drawn, since not on all of them: {', '.join(absent)}")
    print(out)
    return 0


def only(curves: "Sequence[Curve]", methods: str) -> "list[Curve]":
    """The curves of these methods, separated by commas and in this order; all without a name."""
    found = {curve.method for curve in curves}
    wanted = list(dict.fromkeys(split_names(methods, found)))
    if missing := sorted(set(wanted) - found):
        raise UserError(f"there is no method {missing[0]!r}", f"choose from {', '.join(sorted(found))}")
    return [curve for name in wanted for curve in curves if curve.method == name] or list(curves)


def split_names(text: str, known: Collection[str]) -> list[str]:
    """Split names at commas, but for commas of a known name."""
    parts, names = [part.strip() for part in text.split(",") if part.strip()], []
    while parts:
        lengths = range(len(parts), 0, -1)
        count = next((n for n in lengths if ", ".join(parts[:n]) in known), 1)
        names.append(", ".join(parts[:count]))
        parts = parts[count:]
    return names


def summarise(panels: "Panels", x: str) -> list[str]:
    """Return one line per panel and method: where the curve ends, and its band."""
    lines = []
    for title, methods in panels.items():
        for method, _, (where, centre, low, high), _, curves in methods:
            end = f"{where[-1]:.1f} minutes" if x == "wall" else f"{int(where[-1]):,} frames"
            spread = f" [{low[-1]:.1f}, {high[-1]:.1f}]" if low[-1] < high[-1] else ""
            lines.append(f"{title}  {method}  {centre[-1]:.1f}{spread} at {end}, n={len(curves)}")
    return lines


def _default_out(options: Plot, runs: "Sequence[RunRecord]") -> Path:
    name = options.metric.replace("/", "-") + (".wall.png" if options.x == "wall" else ".png")
    if options.evidence:
        return options.evidence.with_name(f"{options.evidence.stem}-{name}")
    return runs[0].path / "plots" / name if len(runs) == 1 else Path(name)


def main(argv: list[str] | None = None) -> int:
    """Run the command line."""
    return run_command("plot", plot, argv, options=Plot)


if __name__ == "__main__":
    sys.exit(main())

"""Learning curves of runs, or of recorded evidence, with 95 % bootstrap bands over seeds.

python -m agents.plot runs=last
python -m agents.plot runs=runs/dmc_walker/*
python -m agents.plot runs=runs/dmc_walker/* x=wall out=walker.png baseline=tests/evidence/published.csv
python -m agents.plot runs=runs/dmc_walker/* record=tests/evidence/walker.csv method=ours experiment=walker
python -m agents.plot evidence=tests/evidence/walker.csv method=ours,theirs
python -m agents.plot evidence=tests/evidence/walker.csv at=50000,100000 baseline=tests/evidence/published.csv
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from agents.cli import UserError, option, run_command

if TYPE_CHECKING:
    import numpy as np

    from agents.evidence import Curve, RunRecord

# Okabe and Ito's palette, then Tol's: told apart with every kind of colour vision.
COLOURS = (
    *("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000", "#7F7F7F"),
    *("#882255", "#999933", "#332288", "#AA4499"),
)
NAMES = {
    "eval/return": "evaluation return",
    "train/return": "training return",
    "train/length": "episode length (frames)",
}
RESAMPLES = 2_000
PICTURES = (".png", ".pdf", ".svg")


@dataclass
class Plot:
    """What to draw, and where the picture goes."""

    runs: list[str] = option(text="run directories, patterns or last, separated by commas", factory=list)
    evidence: Path | None = option(None, "an evidence file (CSV) instead of runs")
    out: Path | None = option(None, "the picture (default: beside the run or the evidence)")
    metric: str = option("eval/return", "what to draw")
    x: str = option("frames", "horizontal axis", choices=("frames", "wall"))
    statistic: str = option("mean", "over seeds", choices=("mean", "iqm"))
    baseline: list[Path] = option(text="evidence files to draw beside it, dashed", factory=list)
    at: list[int] = option(text="print a table (Markdown) of these frames instead of drawing", factory=list)
    record: Path | None = option(None, "append the runs to this evidence file instead of drawing")
    method: str = option("", "name in the legend or the record; of evidence: only these, with commas")
    experiment: str = option("", "name of the experiment in the evidence")


def plot(options: Plot) -> int:
    """Draw the curves of runs or of evidence as a PNG, and print where each curve ends."""
    from agents.durable import disk_errors
    from agents.evidence import curves_of, read_evidence, read_runs, record_runs

    if bool(options.runs) == bool(options.evidence):
        fix = "add runs=runs/ENV/* or evidence=FILE.csv (one of them)"
        raise UserError("nothing to draw" if not options.runs else "runs and evidence are both given", fix)
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
    if options.at:
        from agents.score_table import markdown

        print("\n".join(markdown(curves, others, options.at)))
        return 0
    out = options.out or _default_out(options, runs)
    if out.suffix not in PICTURES:
        fix = f"use one of {', '.join(PICTURES)}, as in out=curves.png"
        raise UserError(f"out={out} is not a picture", fix)
    with disk_errors(out):
        out.parent.mkdir(parents=True, exist_ok=True)
        draw(curves, others, out, metric=options.metric, x=options.x, statistic=options.statistic)
    for line in summarise(curves + others, options.statistic):
        print(line)
    print(out)
    return 0


def only(curves: "Sequence[Curve]", methods: str) -> "list[Curve]":
    """The curves of these methods, separated by commas; all without a name."""
    wanted = {name.strip() for name in methods.split(",") if name.strip()}
    found = {curve.method for curve in curves}
    if missing := sorted(wanted - found):
        raise UserError(f"there is no method {missing[0]!r}", f"choose from {', '.join(sorted(found))}")
    return [curve for curve in curves if not wanted or curve.method in wanted]


def interquartile_mean(values: "np.ndarray") -> "np.ndarray":
    """Mean of the middle half over the first axis: S T -> T."""
    import numpy as np

    cut = int(0.25 * len(values))
    return np.sort(values, axis=0)[cut : len(values) - cut].mean(axis=0)


def band(values: "np.ndarray", statistic: str, seed: int = 0) -> "tuple[np.ndarray, np.ndarray, np.ndarray]":
    """Centre, low and high end of the 95 % bootstrap band over seeds: S T -> T, T, T."""
    import numpy as np

    centre = interquartile_mean if statistic == "iqm" else lambda v: v.mean(axis=0)
    if len(values) == 1:
        return values[0], values[0], values[0]
    rng = np.random.default_rng(seed)
    picks = rng.integers(len(values), size=(RESAMPLES, len(values)))
    low, high = np.percentile([centre(values[pick]) for pick in picks], [2.5, 97.5], axis=0)
    return centre(values), low, high


def _axis(curve: "Curve", x: str) -> "np.ndarray":
    return curve.wall_s / 60 if x == "wall" else curve.frames


def align(curves: "Sequence[Curve]", x: str) -> "tuple[np.ndarray, np.ndarray]":
    """Bring the seeds of one method to the points that all of them reached: T and S T."""
    import numpy as np

    pairs = []
    for curve in curves:
        axis = _axis(curve, x)
        keep = np.isfinite(axis)
        where, index = np.unique(axis[keep], return_index=True)
        if len(where):
            pairs.append((where, curve.values[keep][index]))
    if not pairs:
        raise UserError("these runs have no wall times", "use x=frames")
    grid = np.unique(np.concatenate([where for where, _ in pairs]))
    start, end = max(where[0] for where, _ in pairs), min(where[-1] for where, _ in pairs)
    inside = grid[(grid >= start) & (grid <= end)]
    if not len(inside):  # seeds that do not overlap yet: show the longest one alone
        return max(pairs, key=lambda pair: pair[0][-1])[0], max(pairs, key=lambda pair: pair[0][-1])[1][None]
    if x == "wall" and len(pairs) > 1:
        inside = np.linspace(start, end, 100)
    return inside, np.stack([np.interp(inside, where, values) for where, values in pairs])


def draw(
    curves: "Sequence[Curve]",
    baselines: "Sequence[Curve]",
    out: Path,
    *,
    metric: str,
    x: str = "frames",
    statistic: str = "mean",
) -> None:
    """Write one panel per environment: a line and a band per method, thin where a seed goes on alone."""
    from matplotlib import rc_context
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    envs = sorted({curve.env for curve in curves})
    labels = _labels([*curves, *baselines])
    columns = min(3, len(envs))
    rows = -(-len(envs) // columns)
    style: Any = {
        "font.size": 9.5,
        "axes.titlesize": 10.5,
        "axes.spines.top": False,
        "axes.spines.right": False,
    }
    with rc_context(style):
        legend = 0.2 * -(-len(labels) // (columns + 1))
        size = (0.9 + 4.4 * columns, 0.4 + 3.1 * rows + legend)
        figure = Figure(figsize=size, dpi=160, layout="constrained")
        FigureCanvasAgg(figure)
        grid = figure.subplots(rows, columns, squeeze=False)
        for index, axes in enumerate(grid.flat):
            if index >= len(envs):
                axes.set_visible(False)
                continue
            for kind, dashed in ((curves, False), (baselines, True)):
                here = [curve for curve in kind if curve.env == envs[index]]
                _draw_panel(axes, here, labels, x, statistic, dashed)
            _finish_panel(axes, envs[index], metric, x, first=index % columns == 0)
        lines: dict[str, Any] = {}
        for axes in grid.flat:
            for line, text in zip(*axes.get_legend_handles_labels(), strict=True):
                lines.setdefault(text, line)
        # Below the panels: with what others published there are more lines than room beside the curves.
        look = {"ncols": min(columns + 1, len(lines)), "frameon": False, "fontsize": 8.5, "handlelength": 1.8}
        figure.legend(lines.values(), lines.keys(), loc="outside lower center", **look)
        figure.savefig(out, format=out.suffix[1:])


def _draw_panel(
    axes: Any, curves: "Sequence[Curve]", labels: dict[str, str], x: str, statistic: str, dashed: bool
) -> None:
    for method in dict.fromkeys(curve.method for curve in curves):
        same = [curve for curve in curves if curve.method == method]
        where, values = align(same, x)
        centre, low, high = band(values, statistic)
        colour = COLOURS[list(labels).index(method) % len(COLOURS)]
        look = {
            "color": colour,
            "label": labels[method],
            "linewidth": 1.6,
            "linestyle": "--" if dashed else "-",
        }
        for curve in same:  # seeds that went on alone, thin
            axis = _axis(curve, x)
            on = axis >= where[-1]
            if on.sum() > 1:
                axes.plot(axis[on], curve.values[on], color=colour, linewidth=0.9, alpha=0.7)
        if len(where) == 1:
            spread = [[centre[0] - low[0]], [high[0] - centre[0]]]
            look |= {"linestyle": "none", "marker": "o", "markersize": 5, "capsize": 3}
            axes.errorbar(where, centre, yerr=spread, **look)
            continue
        if dashed and len(where) <= 5:  # what lies between a few published points is anybody's guess
            look |= {"linestyle": "none", "marker": "D", "alpha": 0.8}
        axes.plot(where, centre, **({"marker": "o" if len(where) <= 12 else None} | look), markersize=3.5)
        if len(values) > 1:
            axes.fill_between(where, low, high, color=colour, alpha=0.16, linewidth=0)


def _labels(curves: "Sequence[Curve]") -> dict[str, str]:
    """Name every method with its number of seeds; what others published comes as a mean, with seed -1."""
    seeds: dict[str, dict[str, int]] = {}
    for curve in curves:
        panels = seeds.setdefault(curve.method, {})
        panels[curve.env] = panels.get(curve.env, 0) + 1
    published = {curve.method for curve in curves if curve.seed < 0}
    labels = {}
    for method, panels in seeds.items():
        few, many = min(panels.values()), max(panels.values())
        count = f"{few} to {many}" if few < many else f"{many}"
        what = "published" if method in published else f"{count} seed{'s' if many > 1 else ''}"
        labels[method] = f"{method}  ({what})"
    return labels


def _finish_panel(axes: Any, env: str, metric: str, x: str, *, first: bool) -> None:
    from matplotlib.ticker import EngFormatter

    axes.set_title(env, loc="left", fontweight="bold")
    axes.set_xlabel("training time (minutes)" if x == "wall" else "frames (control steps)")
    if first:
        axes.set_ylabel(NAMES.get(metric, metric))
    if x == "frames":
        axes.xaxis.set_major_formatter(EngFormatter(sep=""))
    axes.grid(axis="y", color="#DDDDDD", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.set_xlim(left=0)
    low, high = axes.get_ylim()
    if low > 0:  # a cut axis makes small differences look large
        axes.set_ylim(0, 1.04 * high)


def summarise(curves: "Sequence[Curve]", statistic: str) -> list[str]:
    """Return one line per environment and method: where the curve ends, and its band."""
    lines = []
    for env, method in dict.fromkeys((curve.env, curve.method) for curve in curves):
        same = [curve for curve in curves if (curve.env, curve.method) == (env, method)]
        where, values = align(same, "frames")
        centre, low, high = band(values, statistic)
        spread = f" [{low[-1]:.1f}, {high[-1]:.1f}]" if len(values) > 1 else ""
        lines.append(
            f"{env}  {method}  {centre[-1]:.1f}{spread} at {int(where[-1]):,} frames, n={len(values)}"
        )
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

"""Pictures of curves: one panel per environment, or one of all together."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from matplotlib import rc_context
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter

from agents.bands import Band, axis_of, band, pooled
from agents.cli import UserError
from agents.evidence import Curve

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
STYLE: Any = {
    "font.size": 9.5,
    "axes.titlesize": 10.5,
    "axes.spines.top": False,
    "axes.spines.right": False,
}


class Line(NamedTuple):
    """One method in one panel."""

    method: str
    rank: int  # of the method among all of a picture: its colour, and its place in the legend
    band: Band
    dashed: bool
    curves: Sequence[Curve]


Panels = dict[str, list[Line]]  # by title


def separate(curves: Sequence[Curve], baselines: Sequence[Curve], x: str, statistic: str) -> Panels:
    """Make one panel for each environment of the curves."""
    panels: Panels = {}
    ranks = rank(curves, baselines)
    for env in sorted({curve.env for curve in curves}):
        panels[env] = []
        for kind, dashed in ((curves, False), (baselines, True)):
            for method, same in by_method([curve for curve in kind if curve.env == env]).items():
                panels[env].append(Line(method, ranks[method], band(same, x, statistic), dashed, same))
    return panels


def together(curves: Sequence[Curve], baselines: Sequence[Curve], x: str, statistic: str) -> Panels:
    """Make one panel for all environments; a method that has not been on all of them is left out."""
    wanted = {curve.env for curve in curves}
    lines, ranks = [], rank(curves, baselines)
    for kind, dashed in ((curves, False), (baselines, True)):
        for method, same in by_method(kind).items():
            if {curve.env for curve in same} == wanted:
                lines.append(Line(method, ranks[method], pooled(same, x, statistic), dashed, same))
    if not lines:
        raise UserError("no method has been on every environment", "name one: method=NAME")
    name = "interquartile mean" if statistic == "iqm" else "mean"
    return {f"{name} of {len(wanted)} environments": lines}


def rank(curves: Sequence[Curve], baselines: Sequence[Curve]) -> dict[str, int]:
    """Number the methods, ours first."""
    return {method: number for number, method in enumerate(by_method([*curves, *baselines]))}


def by_method(curves: Sequence[Curve]) -> dict[str, list[Curve]]:
    """Group curves by their method, in the order in which methods come."""
    groups: dict[str, list[Curve]] = {}
    for curve in curves:
        groups.setdefault(curve.method, []).append(curve)
    return groups


def draw(panels: Panels, out: Path, *, metric: str, x: str = "frames") -> None:
    """Write the panels: a line and a band per method, thin where a seed goes on alone."""
    labels = name_lines([line for lines in panels.values() for line in lines])
    columns = min(3, len(panels))
    rows = -(-len(panels) // columns)
    width = 0.9 + 4.4 * columns
    longest = 0.6 + 0.068 * max(map(len, labels.values()))  # a legend's entry, in inches
    across = max(1, min(columns + 1, len(labels), int(width / longest)))
    with rc_context(STYLE):
        legend = 0.2 * -(-len(labels) // across)
        size = (width, 0.4 + 3.1 * rows + legend)
        figure = Figure(figsize=size, dpi=160, layout="constrained")
        FigureCanvasAgg(figure)
        grid = list(figure.subplots(rows, columns, squeeze=False).flat)
        for axes in grid[len(panels) :]:
            axes.set_visible(False)
        for index, (axes, (title, lines)) in enumerate(zip(grid, panels.items(), strict=False)):
            for line in lines:
                draw_line(axes, line, labels[line.method], x)
            _finish_panel(axes, title, metric, x, first=index % columns == 0)
        handles: dict[str, Any] = {}
        for axes in grid:
            handles |= {t: h for h, t in zip(*axes.get_legend_handles_labels(), strict=True)}
        # Below the panels: with what others published there are more lines than room beside the curves.
        look = {"ncols": across, "frameon": False, "fontsize": 8.5, "handlelength": 1.8}
        figure.legend(
            [handles[text] for text in labels.values()], labels.values(), loc="outside lower center", **look
        )
        figure.savefig(out, format=out.suffix[1:])


def draw_line(axes: Any, line: Line, label: str, x: str) -> None:
    """Draw one method; few points of others are shown as points."""
    where, centre, low, high = line.band
    colour = COLOURS[line.rank % len(COLOURS)]
    one = len({curve.env for curve in line.curves}) == 1
    look = {"color": colour, "label": label, "linewidth": 1.6, "linestyle": "--" if line.dashed else "-"}
    for curve in line.curves if one else ():  # seeds that went on alone
        axis = axis_of(curve, x)
        on = axis >= where[-1]
        if on.sum() > 1:
            axes.plot(axis[on], curve.values[on], color=colour, linewidth=0.9, alpha=0.7)
    if len(where) == 1:
        spread = [[centre[0] - low[0]], [high[0] - centre[0]]]
        look |= {"linestyle": "none", "marker": "o", "markersize": 5, "capsize": 3}
        axes.errorbar(where, centre, yerr=spread, **look)
        return
    if line.dashed and len(where) <= 5:  # what lies between a few published points is anybody's guess
        look |= {"linestyle": "none", "marker": "D", "alpha": 0.8}
    axes.plot(where, centre, **({"marker": "o" if len(where) <= 12 else None} | look), markersize=3.5)
    if (low < high).any():
        axes.fill_between(where, low, high, color=colour, alpha=0.16, linewidth=0)


def name_lines(lines: Sequence[Line]) -> dict[str, str]:
    """Name every method with its number of seeds; what others published comes as a mean, with seed -1."""
    labels = {}
    for method in dict.fromkeys(line.method for line in sorted(lines, key=lambda line: line.rank)):
        curves = [curve for line in lines if line.method == method for curve in line.curves]
        seeds = Counter(curve.env for curve in curves).values()
        few, many = min(seeds), max(seeds)
        count = f"{few} to {many}" if few < many else f"{many}"
        published = any(curve.seed < 0 for curve in curves)
        what = "published" if published else f"{count} seed{'s' if many > 1 else ''}"
        labels[method] = f"{method}  ({what})"
    return labels


def _finish_panel(axes: Any, title: str, metric: str, x: str, *, first: bool) -> None:
    axes.set_title(title, loc="left", fontweight="bold")
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

"""What curves say at chosen frames, as a Markdown table beside the best of what others published."""

from collections.abc import Sequence

import numpy as np

from agents.cli import UserError
from agents.evidence import Curve


def markdown(curves: Sequence[Curve], others: Sequence[Curve], frames: Sequence[int]) -> list[str]:
    """Write one line per environment and method; a seed counts where it was evaluated, nowhere else."""
    several = len({curve.method for curve in curves}) > 1
    told = [f"{at:,}" for at in frames]
    if not any(_exactly(curve, at) for curve in curves for at in frames):
        known = sorted({int(at) for curve in curves for at in curve.frames})
        text = f"nothing was evaluated at {' or '.join(told)} frames"
        raise UserError(text, f"choose from {', '.join(map(str, known[:20]))}")
    best = [f"best published at {frames[-1]:,}"] if others else []
    header = ["environment", *(["method"] if several else []), *told, *best]
    lines = [_line(header), _line(["--:" if name in told else ":--" for name in header])]
    for env, method in sorted(dict.fromkeys((curve.env, curve.method) for curve in curves)):
        seeds = [curve for curve in curves if (curve.env, curve.method) == (env, method)]
        cells = [_cell([value for seed in seeds for value in _exactly(seed, at)]) for at in frames]
        rival = [_best([curve for curve in others if curve.env == env], frames[-1])] if others else []
        lines.append(_line([env, *([method] if several else []), *cells, *rival]))
    return lines


def _exactly(curve: Curve, frames: int) -> list[float]:
    return [float(value) for value in curve.values[curve.frames == frames]]


def _cell(values: Sequence[float]) -> str:
    """Mean over seeds, their standard deviation and how many they are."""
    if not values:
        return ""
    spread = f" ± {np.std(values, ddof=1):.0f}" if len(values) > 1 else ""
    return f"{np.mean(values):.0f}{spread} ({len(values)})"


def _best(curves: Sequence[Curve], frames: int) -> str:
    found = [(value, curve.method) for curve in curves for value in _exactly(curve, frames)]
    if not found:
        return ""
    value, method = max(found)
    return f"{value:.0f} {method}"


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"

"""Curves of several seeds, or of several environments, as one line with its 95 % bootstrap band."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from agents.cli import UserError
from agents.evidence import Curve

RESAMPLES = 2_000


class Band(NamedTuple):
    """A line and the ends of its band: all of them T."""

    where: np.ndarray
    centre: np.ndarray
    low: np.ndarray
    high: np.ndarray


def axis_of(curve: Curve, x: str) -> np.ndarray:
    """Return where the points of a curve are: frames, or minutes."""
    return curve.wall_s / 60 if x == "wall" else curve.frames


def interquartile_mean(values: np.ndarray) -> np.ndarray:
    """Mean of the middle half over the first axis: S T -> T."""
    cut = int(0.25 * len(values))
    return np.sort(values, axis=0)[cut : len(values) - cut].mean(axis=0)


def _mean(values: np.ndarray) -> np.ndarray:
    return values.mean(axis=0)


def _centre(statistic: str) -> Callable[[np.ndarray], np.ndarray]:
    return interquartile_mean if statistic == "iqm" else _mean


def align(curves: Sequence[Curve], x: str) -> tuple[np.ndarray, np.ndarray]:
    """Bring the seeds of one method to the points that all of them reached: T and S T."""
    pairs = []
    for curve in curves:
        axis = axis_of(curve, x)
        keep = np.isfinite(axis)
        where, index = np.unique(axis[keep], return_index=True)
        if len(where):
            pairs.append((where, curve.values[keep][index]))
    if not pairs:
        raise UserError("these runs have no wall times", "use x=frames")
    inside = _shared([where for where, _ in pairs])
    if not len(inside):  # seeds that do not overlap yet: show the longest one alone
        where, values = max(pairs, key=lambda pair: pair[0][-1])
        return where, values[None]
    if x == "wall" and len(pairs) > 1:
        inside = np.linspace(inside[0], inside[-1], 100)
    return inside, np.stack([np.interp(inside, where, values) for where, values in pairs])


def _shared(places: Sequence[np.ndarray]) -> np.ndarray:
    """Every place that lies between the latest start and the earliest end."""
    grid = np.unique(np.concatenate(places))
    start, end = max(where[0] for where in places), min(where[-1] for where in places)
    return grid[(grid >= start) & (grid <= end)]


def band(curves: Sequence[Curve], x: str, statistic: str) -> Band:
    """One environment: the statistic over seeds, and how it varies with which seeds there are."""
    where, values = align(curves, x)
    centre = _centre(statistic)
    return Band(where, *resampled([values], lambda seeds: centre(seeds[0])))


def pooled(curves: Sequence[Curve], x: str, statistic: str) -> Band:
    """Several environments: the statistic over them of means over seeds; only seeds vary in the band."""
    places = [
        align([c for c in curves if c.env == env], x) for env in sorted({curve.env for curve in curves})
    ]
    grid = _shared([where for where, _ in places])
    if not len(grid):
        raise UserError("these environments share no frames", "draw them one by one: together=false")
    stacks = [np.stack([np.interp(grid, where, row) for row in rows]) for where, rows in places]
    centre = _centre(statistic)
    return Band(grid, *resampled(stacks, lambda seeds: centre(np.stack([_mean(rows) for rows in seeds]))))


def resampled(
    stacks: Sequence[np.ndarray], centre: Callable[[Sequence[np.ndarray]], np.ndarray], seed: int = 0
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Centre, low and high end over draws of seeds with replacement, in every stack by itself: S T each."""
    middle = centre(stacks)
    if max(len(stack) for stack in stacks) == 1:
        return middle, middle, middle
    rng = np.random.default_rng(seed)
    draws = [
        centre([stack[rng.integers(len(stack), size=len(stack))] for stack in stacks])
        for _ in range(RESAMPLES)
    ]
    low, high = np.percentile(draws, [2.5, 97.5], axis=0)
    return middle, low, high

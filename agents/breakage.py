"""What agents are worth when sensors die: the same runs evaluated with more and more of them gone."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from agents.cli import UserError
from agents.evidence import RunRecord, read_runs, row_of

METRIC = "eval/return"
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7")

Tell = Callable[[str, int], None]


class Judged(NamedTuple):
    """A run, what its encoder is, how far it was trained, and its return by the share of dead sensors."""

    run: RunRecord
    method: str
    frames: int
    scores: dict[float, float]


def judge(
    patterns: Sequence[str], drops: Sequence[float], episodes: int, tell: Tell, entry: str | None = None
) -> list[Judged]:
    """Evaluate every run with dead sensors with each share of them, on the same episodes."""
    from agents.loading import load_run
    from agents.rollouts import evaluate_episodes, summary

    found = []
    runs = [run for run in read_runs(patterns) if run.config.get("env", {}).get("drop") is not None]
    if not runs:
        raise UserError(f"no run of {' '.join(patterns)} has env.drop", "train with env.drop=0.3")
    for run in runs:
        loaded, scores = load_run(str(run.path), entry=entry), {}
        for drop in drops:
            loaded.config.env.drop = drop
            played = evaluate_episodes(loaded.agent, loaded.config.env, episodes, run.seed)
            assert played is not None
            scores[drop] = summary(played)[METRIC]
            tell("shares evaluated", sum(len(one.scores) for one in found) + len(scores))
        found.append(Judged(run, _method(run.config), loaded.frames, scores))
    return sorted(found, key=lambda one: (one.method, one.run.seed))


def _method(config: dict[str, Any]) -> str:
    encoder = config["worldmodel"]["encoder"]
    marks = {
        "pre-trained": config["trainer"].get("encoder"),
        "frozen": encoder.get("frozen"),
        "sensors hidden": config["agent"].get("hide"),
    }
    return ", ".join([encoder["name"], *(name for name, there in marks.items() if there)])


def lines_of(found: Sequence[Judged]) -> Iterator[str]:
    """A table: the mean return over seeds by encoder, and what share of it is kept."""
    drops = list(found[0].scores)
    yield f"{'encoder':<44}{'seeds':>6}" + "".join(f"{f'{100 * drop:g} % dead':>20}" for drop in drops)
    for method in dict.fromkeys(one.method for one in found):
        mine = [one.scores for one in found if one.method == method]
        means = [float(np.mean([scores[drop] for scores in mine])) for drop in drops]
        cells = "".join(f"{f'{mean:.1f} ({mean / max(means[0], 1e-9):.2f})':>20}" for mean in means)
        yield f"{method:<44}{len(mine):>6}{cells}"


def rows_of(found: Sequence[Judged]) -> Iterator[dict[str, str]]:
    """Every return as a row of evidence."""
    for one in found:
        for drop, score in one.scores.items():
            metric = f"{METRIC}@drop={drop:g}"
            yield row_of(one.run, "sensors", one.method, one.frames, metric, f"{score:.3f}", np.nan)


def draw(found: Sequence[Judged], path: Path) -> None:
    """Draw the return over the share of dead sensors: lines are means, dots are seeds."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axis = plt.subplots(figsize=(6, 4), layout="constrained")
    for colour, method in zip(COLOURS, dict.fromkeys(one.method for one in found), strict=False):
        mine = [one.scores for one in found if one.method == method]
        drops = sorted(mine[0])
        axis.plot(drops, [np.mean([s[d] for s in mine]) for d in drops], "o-", color=colour, label=method)
        for scores in mine:
            axis.plot(drops, [scores[d] for d in drops], ".", color=colour, alpha=0.5)
    axis.set_xlabel("share of sensors that is dead for an episode")
    axis.set_ylabel("return")
    axis.set_ylim(0, None)
    axis.legend(fontsize=9)
    figure.savefig(path, dpi=110)
    plt.close(figure)

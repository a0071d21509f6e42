"""The claims as a page of Markdown, and their curves as one picture."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from agents.durable import disk_errors, replace_file
from agents.judging import Evidence

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#7F7F7F", "#000000")


def write(home: Path, evidence: Evidence, lines: Sequence[str]) -> Path:
    """Write claims.md and claims.png into a folder: -> the page."""
    with disk_errors(home):
        home.mkdir(parents=True, exist_ok=True)
        draw(evidence, home / "claims.png")
        page = "\n".join(["# seq-JEPA's claims", "", "![curves](claims.png)", "", "```", *lines, "```", ""])
        replace_file(home / "claims.md", page.encode())
    return home / "claims.md"


def draw(evidence: Evidence, path: Path) -> None:
    """Draw equivariance by variant, classes over views, and paths over their lengths."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(2, 2, figsize=(11, 8), layout="constrained")
    _bars(axes[0, 0], evidence)
    lengths = (1, 2, 3, 4, 5, 8)
    classes = [(v, f"class/{f}@") for v, f in (("both", "belief"), ("both", "mean"), ("none", "belief"))]
    _curves(axes[0, 1], evidence, "objects", [*classes, ("untrained", "class/mean@")], lengths)
    axes[0, 1].set_title("objects: share of classes found, over views", fontsize=10)
    sources = ("both", "act", "see", "last_action", "final_pose")
    for axis, kind in ((axes[1, 0], "objects"), (axes[1, 1], "saccades")):
        wanted = [("both", f"path/{source}@") for source in sources]
        wanted.insert(1, ("positions" if kind == "objects" else "untrained", "path/both@"))
        _curves(axis, evidence, kind, wanted, (1, 2, 3, 5, 7))
        axis.set_title(f"{kind}: path integration, R² over actions", fontsize=10)
        axis.set_ylim(-0.15, 1.05)
    figure.savefig(path, dpi=110)
    plt.close(figure)


def _bars(axis: Any, evidence: Evidence) -> None:
    names = list(dict.fromkeys(f.variant for f in evidence.found if f.kind == "objects"))
    values = [list(evidence.by_seed("objects", name, "action/mlp").values()) for name in names]
    axis.bar(names, [np.mean(v) for v in values], color="#56B4E9")
    for place, found in enumerate(values):
        axis.plot([place] * len(found), found, "k.", markersize=5)
    axis.tick_params(axis="x", rotation=40)
    axis.set_title("objects: R² of the action between two views (dots: seeds)", fontsize=10)


def _curves(
    axis: Any, evidence: Evidence, kind: str, wanted: Sequence[tuple[str, str]], at: Sequence[int]
) -> None:
    for colour, (variant, metric) in zip(COLOURS, wanted, strict=False):
        measured = {k: list(evidence.by_seed(kind, variant, f"{metric}{k}").values()) for k in at}
        columns = {
            k: values for k, values in measured.items() if values
        }  # some are not asked at every length
        if not columns:
            continue
        name = f"{variant}: {metric.partition('/')[2].rstrip('@')}"
        means = [np.mean(values) for values in columns.values()]
        axis.plot(list(columns), means, "o-", color=colour, label=name, markersize=4)
        if min(map(len, columns.values())) > 1:
            low, high = ([pick(values) for values in columns.values()] for pick in (min, max))
            axis.fill_between(list(columns), low, high, color=colour, alpha=0.15, linewidth=0)
    if axis.lines:
        axis.legend(fontsize=8)
    axis.set_xticks(at)

"""Where views and beliefs lie: two principal components, coloured by class and by pose."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from agents.durable import disk_errors
from agents.examination import Subject

SHOWN = 800  # points
VIEWS = 5  # in a belief


def components(features: Tensor) -> Tensor:
    """The first two principal components, each of unit variance: N F -> N 2."""
    centred = features - features.mean(0)
    _, _, directions = torch.linalg.svd(centred, full_matrices=False)
    flat = centred @ directions[:2].t()
    return flat / flat.std(0).clamp_min(1e-9)


def draw(subject: Subject, path: Path) -> None:
    """Draw latents of one view and beliefs of several, of things that were never seen in training."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    rows = subject.parts.judge.nonzero()[:SHOWN, 0]
    belief = subject.belief(VIEWS)[rows]
    family = subject.labels[rows].argmax(1)
    place = subject.poses[rows][..., subject.source.place]
    figure, axes = plt.subplots(2, 2, figsize=(9.5, 8.5), layout="constrained")
    for axis, (what, features, seen) in zip(
        axes,
        (("latent of a view", subject.z[rows, 0], 0), (f"belief of {VIEWS} views", belief, VIEWS - 1)),
        strict=True,
    ):
        points = components(features)
        varying = place[:, seen].var(0).argmax()
        _scatter(axis[0], points, family, f"{what}: class", "tab20")
        _scatter(axis[1], points, place[:, seen, varying], f"{what}: pose of the last view", "viridis")
    with disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, dpi=110)
    plt.close(figure)


def _scatter(axis: Any, points: Tensor, colour: Tensor, title: str, colours: str) -> None:
    axis.scatter(*points.t().tolist(), c=colour.tolist(), cmap=colours, s=9, linewidths=0)
    axis.set_title(title, fontsize=10)
    axis.set_xticks([])
    axis.set_yticks([])

"""Deep linear networks, trained as every world model here is, beside what the theory says of them."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from agents.durable import disk_errors
from worldmodel import Objective, build
from worldmodel.linear import (
    ANSWERS,
    Feature,
    balanced,
    critical_time,
    flow,
    integrate,
    order,
    pairs,
    trajectory,
)

POINTS = 150  # of a trajectory
LONG = 1.3  # of the last critical time: how far a trajectory goes
NEAR = 0.25  # of the end: no start for a time of learning
PAIRS = 64
RATES = {"latent": 2.5e-3, "input": 1e-3}  # of SGD: small enough to differ little from the flow
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
NAMES = {"latent": "JEPA", "input": "reconstruction"}

Tell = Callable[[str, int], None]


class Curve(NamedTuple):
    """How strong each feature is over time, in a network and by the theory."""

    how: str  # "flow": the Objective's gradient, exactly followed; "sgd": by an optimiser; "matrices"
    answer: str
    depth: int
    start: float
    times: Tensor  # T
    strengths: Tensor  # T F
    expected: Tensor  # T F

    @property
    def error(self) -> float:
        """The largest distance between network and theory."""
        return float((self.strengths - self.expected).abs().max())


def study(
    features: Sequence[Feature], depths: Sequence[int], start: float, tell: Tell, *, sgd: bool = True
) -> list[Curve]:
    """Follow networks of every depth, for predicted latents and for reconstructed inputs."""
    curves = []
    for answer in ANSWERS:
        for depth in depths:
            curves += [by_matrices(features, depth, start, answer), by_flow(features, depth, start, answer)]
            tell("networks followed", len(curves))
    return curves + [by_sgd(features, answer, tell) for answer in ANSWERS if sgd]


def by_matrices(features: Sequence[Feature], depth: int, start: float, answer: str) -> Curve:
    """The flow of all matrices at once, from the covariances."""
    basis = _basis(len(features))
    variance, cov = (
        basis
        @ torch.diag(torch.tensor([getattr(f, name) for f in features], dtype=torch.float64))
        @ basis.t()
        for name in ("variance", "cov")
    )
    times = _times(features, depth, start, answer)
    begun = balanced(basis, depth, start, answer, torch.Generator().manual_seed(depth))
    found = flow(begun, variance, cov, answer, times)
    strengths = torch.stack([(network.encoder() @ basis).norm(dim=0) for network in found])
    return _curve("matrices", features, depth, start, answer, times, strengths)


def by_flow(features: Sequence[Feature], depth: int, start: float, answer: str) -> Curve:
    """The ordinary Objective, its gradient followed as by steps that are as small as one likes."""
    objective, batch, basis = network(features, depth, start, answer)
    # Not the embedding of actions, which nobody reads.
    weights = [w for w in objective.trainable() if w.shape == basis.shape]

    def velocity(state: Tensor) -> Tensor:
        with torch.no_grad():
            for weight, value in zip(weights, state, strict=True):
                weight.copy_(value)
        loss, _ = objective(batch)
        return -torch.stack(torch.autograd.grad(loss, weights))

    times = _times(features, depth, start, answer)
    state, now, strengths = torch.stack([w.detach() for w in weights]), 0.0, []
    for time in times.tolist():
        state, now = integrate(velocity, state, now, time, 1e-7), time
        velocity(state)
        strengths.append(_strengths(objective, basis))
    return _curve("flow", features, depth, start, answer, times, torch.stack(strengths))


def by_sgd(features: Sequence[Feature], answer: str, tell: Tell) -> Curve:
    """The same two layers deep, with an optimiser, from a start that its many small steps can afford."""
    depth, start, rate = 2, NEAR * min(f.rho for f in features) ** 2, RATES[answer]
    objective, batch, basis = network(features, depth, start, answer)
    optimiser = torch.optim.SGD(objective.trainable(), rate)
    times = _times(features, depth, start, answer)
    times = (times / rate).round().unique() * rate
    done, strengths = 0, []
    for time in times.tolist():
        for _ in range(round(time / rate) - done):
            optimiser.zero_grad()
            objective(batch)[0].backward()
            optimiser.step()
        done = round(time / rate)
        tell(f"steps of SGD, {NAMES[answer]}", done)
        strengths.append(_strengths(objective, basis))
    return _curve("sgd", features, depth, start, answer, times, torch.stack(strengths))


def network(
    features: Sequence[Feature], depth: int, start: float, answer: str
) -> tuple[Objective, dict[str, Tensor], Tensor]:
    """A world model that is a product of matrices, pairs of these features as its batch, and their basis."""
    basis, scale, size = _basis(len(features)), start ** (1 / depth), len(features)
    config = {
        "encoder": {"name": "linear", "layers": depth, "scale": scale},
        "aggregator": {"name": "none"},
        "predictor": {"name": "linear", "scale": scale},
        "target": {"name": "online" if answer == "latent" else "input"},
        "terms": {"mse": {"weight": size / 2}},  # half the sum of squares, where mse is their mean
    }
    shapes = {
        "observation": {"state": {"shape": [size], "dtype": "float32"}},
        "action": {"kind": "continuous", "size": 1},
    }
    x, y = pairs(features, basis, PAIRS, torch.Generator().manual_seed(0))
    rows, no = (PAIRS, 2), torch.zeros(PAIRS, 2, dtype=torch.bool)
    batch = {
        "state": torch.stack([x, y], 1).float(),
        "prev_action": torch.zeros(*rows, 1, dtype=torch.float64),
        "reward": torch.zeros(rows),
        "terminated": no,
        "is_first": no,
        "valid": ~no,
    }
    return build(config, shapes, seed=0).double(), batch, basis


def turning_points(noisy: Feature, clean: Feature, starts: Sequence[float], deepest: int) -> dict[str, Any]:
    """Which of two features is learned first, by depth: the ratio of their times (above 1: the clean one)."""
    found: dict[str, Any] = {}
    for answer in ANSWERS:
        for start in starts:
            ratios = []
            for depth in range(1, deepest + 1):
                if start >= NEAR * noisy.rho**depth:
                    break  # its time says nothing: it begins near its end, or beyond
                times = [critical_time(f, depth, start, answer) for f in (noisy, clean)]
                ratios.append(times[0] / times[1])
            turned = next((k for k, ratio in enumerate(ratios, start=1) if ratio > 1), None)
            found[f"{answer} {start:g}"] = {"ratios": ratios, "turns_at": turned}
    return found


def observed_order(curve: Curve, features: Sequence[Feature]) -> list[int] | None:
    """The features by when each was half way to its end in the network; None where one was not in time."""
    reached = []
    for number, feature in enumerate(features):
        power = curve.depth if curve.answer == "latent" else curve.depth / (curve.depth + 1)
        there = curve.strengths[:, number] >= 0.5 * feature.rho**power
        if not bool(there.any()):
            return None
        reached.append(float(curve.times[int(there.int().argmax())]))
    return sorted(range(len(features)), key=reached.__getitem__)


def lines_of(curves: Sequence[Curve], features: Sequence[Feature], turns: dict[str, Any]) -> Iterator[str]:
    """What was found, to be read."""
    yield "features: " + ", ".join(
        f"{k} (covariance {f.cov:g}, rho {f.rho:g})" for k, f in enumerate(features)
    )
    for curve in curves:
        seen = observed_order(curve, features)
        said = order(features, curve.depth, curve.start, curve.answer)
        agree = "" if seen is None else f", learned in the order {seen} (theory {said})"
        yield (
            f"{NAMES[curve.answer]:<15} depth {curve.depth} start {curve.start:<6.3g} {curve.how:<9}"
            f" differs from the theory by {curve.error:.1e}{agree}"
        )
    for name, turn in turns.items():
        answer, start = name.split()
        where = f"from depth {turn['turns_at']}" if turn["turns_at"] else "at no depth"
        yield f"{NAMES[answer]:<15} start {start:<6} learns the more predictable feature first {where}"


def draw(curves: Sequence[Curve], turns: dict[str, Any], path: Path) -> None:
    """Draw networks over the theory, and the ratio of times by depth."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    shown = [c for c in curves if c.how == "flow"]
    depths = sorted({c.depth for c in shown})
    figure, axes = plt.subplots(
        3, len(depths), figsize=(3.4 * len(depths), 8), layout="constrained", squeeze=False
    )
    for curve in shown:
        axis = axes[ANSWERS.index(curve.answer), depths.index(curve.depth)]
        for number, colour in zip(range(curve.strengths.shape[1]), COLOURS, strict=False):
            axis.plot(curve.times, curve.expected[:, number], color=colour, label=f"feature {number}, theory")
            axis.plot(curve.times[::8], curve.strengths[::8, number], "o", color=colour, markersize=3)
        axis.set_title(f"{NAMES[curve.answer]}, depth {curve.depth}", fontsize=10)
        axis.set_xlabel("time (learning rate × steps)", fontsize=8)
    axes[0, 0].legend(fontsize=8, title="dots: networks", title_fontsize=8)
    for axis in axes[2, 2:]:
        axis.remove()
    for axis, answer in zip(axes[2, :2], ANSWERS, strict=False):
        for colour, (name, turn) in zip(
            COLOURS, ((n, t) for n, t in turns.items() if n.startswith(answer)), strict=False
        ):
            axis.plot(
                range(1, len(turn["ratios"]) + 1),
                turn["ratios"],
                "o-",
                color=colour,
                markersize=4,
                label=f"start {name.split()[1]}",
            )
        axis.axhline(1.0, color="black", linewidth=0.8)
        axis.set_title(f"{NAMES[answer]}: time of the noisier / of the cleaner", fontsize=9)
        axis.set_xlabel("depth", fontsize=8)
        axis.legend(fontsize=8)
    with disk_errors(path):
        figure.savefig(path, dpi=110)
    plt.close(figure)


def _basis(size: int) -> Tensor:
    return torch.linalg.qr(torch.randn(size, size, generator=torch.Generator().manual_seed(3)).double())[0]


def _times(features: Sequence[Feature], depth: int, start: float, answer: str) -> Tensor:
    last = max(critical_time(f, depth, start, answer) for f in features)
    return torch.linspace(0, LONG * last, POINTS + 1, dtype=torch.float64)[1:]


def _strengths(objective: Objective, basis: Tensor) -> Tensor:
    whole = torch.eye(len(basis), dtype=torch.float64)
    layers: Any = objective.model.encoder.layers
    for layer in layers:
        whole = layer.detach() @ whole
    return (whole @ basis).norm(dim=0)


def _curve(
    how: str, features: Sequence[Feature], depth: int, start: float, answer: str, times: Tensor, found: Tensor
) -> Curve:
    expected = torch.stack([trajectory(f, depth, start, answer, times) for f in features], 1)
    return Curve(how, answer, depth, start, times, found, expected)

"""Which features a deep linear network learns first, in closed form and as the flow of its matrices.

Pairs (x, y) of zero mean whose covariances share their eigenvectors fall apart into features, each with a
covariance `cov` between the two ends of the pair and a regression coefficient `rho` = cov / variance. An
encoder of `depth` layers and a linear predictor learn them one by one, from a small balanced start:

- predicting the *latent* of y behind a stop-gradient (JEPA), a feature ends at rho^depth;
- predicting the *input* y (reconstruction), at rho^(depth / (depth + 1)).

`start` is a feature's first strength, the product over all layers of the encoder. In strengths v of a single
layer (the strength is v^depth), features obey dv/dt = v^(2 depth) (cov - variance v) and
dv/dt = v^depth (cov - variance v^(depth + 1)).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor

from .errors import ModelError

ANSWERS = ("latent", "input")
POINTS = 200_001  # of a quadrature
FAR = 40.0  # how near to nothing and to its end a feature is followed, as logarithms of odds


@dataclass(frozen=True)
class Feature:
    """A direction in which x says something about y."""

    cov: float
    rho: float

    @property
    def variance(self) -> float:
        """Of x in this direction."""
        return self.cov / self.rho


def fixed_point(feature: Feature, depth: int, answer: str) -> float:
    """The strength at which a feature ends."""
    _known(answer)
    return feature.rho ** (depth if answer == "latent" else depth / (depth + 1))


def critical_time(feature: Feature, depth: int, start: float, answer: str, *, fraction: float = 0.5) -> float:
    """How long a feature takes from its start to a fraction of its end, by quadrature."""
    first, last = _range(feature, depth, start, answer, fraction)
    end = fixed_point(feature, depth, answer) ** (1 / depth)
    odds = torch.linspace(_odds(first, end), _odds(last, end), POINTS, dtype=torch.float64)
    return float(_passed(odds, feature, depth, answer)[-1])


def critical_time_in_closed_form(
    feature: Feature, depth: int, start: float, *, fraction: float = 0.5
) -> float:
    """The same for a latent answer, exactly.

    Its leading term, start^-(2 - 1/depth), knows nothing of rho; the next one does, and the smaller
    start^(1/depth) / rho is not, the more: that is why depth makes the difference.
    """
    first, last = _range(feature, depth, start, "latent", fraction)
    rho, total = feature.rho, 0.0
    for n in range(1, 2 * depth):
        total += (first**-n - last**-n) / (n * rho ** (2 * depth - 1 - n))
    total += (_odds(last, rho) - _odds(first, rho)) / rho ** (2 * depth - 1)
    return total / feature.cov


def trajectory(feature: Feature, depth: int, start: float, answer: str, times: Tensor) -> Tensor:
    """The strength of a feature at these times: T -> T."""
    first, _ = _range(feature, depth, start, answer, 0.999)
    end = fixed_point(feature, depth, answer) ** (1 / depth)
    odds = torch.linspace(_odds(first, end), FAR, POINTS, dtype=torch.float64)
    passed, rate = _passed(odds, feature, depth, answer), _seconds_per_odds(odds, feature, depth, answer)
    wanted = times.double().clamp(max=float(passed[-1]))
    left = torch.searchsorted(passed, wanted).clamp(1, POINTS - 1) - 1
    # Between two points time is a parabola of the odds.
    width, ahead = odds[1] - odds[0], wanted - passed[left]
    bend = (rate[left + 1] - rate[left]) / width
    beyond = 2 * ahead / (rate[left] + (rate[left].square() + 2 * bend * ahead).clamp_min(0).sqrt())
    return (end * torch.sigmoid(odds[left] + beyond)) ** depth


def order(features: Sequence[Feature], depth: int, start: float, answer: str) -> list[int]:
    """The numbers of the features, the one that is learned first first."""
    times = [critical_time(feature, depth, start, answer) for feature in features]
    return sorted(range(len(features)), key=times.__getitem__)


def pairs(
    features: Sequence[Feature], basis: Tensor, number: int, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Draw pairs whose covariances are exactly those of the features along the basis: D D -> N D, N D."""
    size = len(features)
    if number <= 2 * size:
        raise ModelError(
            f"{number} pairs cannot have the covariances of {size} features; draw more than that"
        )
    draws = torch.randn(number, 2 * size, generator=generator, dtype=torch.float64)
    white = torch.linalg.qr(draws - draws.mean(0))[0] * number**0.5  # neither means nor correlations
    variance = torch.tensor([f.variance for f in features], dtype=torch.float64)
    rho = torch.tensor([f.rho for f in features], dtype=torch.float64)
    if rho.max() > 1:
        raise ModelError(
            "rho above 1 would make the later end of a pair less than a sum of its parts; lower it"
        )
    x = white[:, :size] * variance.sqrt()
    y = rho * x + white[:, size:] * (variance * (1 - rho**2)).sqrt()
    return x @ basis.t(), y @ basis.t()


class Spectrum(NamedTuple):
    """What of measured pairs the theory would call features."""

    features: list[Feature]  # the most predictable one first
    directions: Tensor  # D F, of the features in x
    mixing: float  # 0 where the covariances share their eigenvectors, as the theory needs; at most 1


def influence(x: Tensor, y: Tensor, done: Tensor | None = None, *, ridge: float = 1e-6) -> Spectrum:
    """Read features from pairs, without what `done` says about either end: N D, N D, N A -> Spectrum."""
    x, y = (part.double() - part.double().mean(0) for part in (x, y))
    if done is not None:
        known = done.double() - done.double().mean(0)
        x, y = (part - known @ torch.linalg.lstsq(known, part).solution for part in (x, y))
    cov_xx, cov_yx = x.t() @ x / len(x), y.t() @ x / len(x)
    both = (cov_yx + cov_yx.t()) / 2
    # cov_yx v = rho cov_xx v, by the Cholesky factor of cov_xx.
    size = len(cov_xx)
    factor = torch.linalg.cholesky(cov_xx + ridge * cov_xx.diagonal().mean() * torch.eye(size).double())
    inner = torch.linalg.solve_triangular(factor, both, upper=False)
    inner = torch.linalg.solve_triangular(factor, inner.t(), upper=False)
    rho, vectors = torch.linalg.eigh((inner + inner.t()) / 2)
    directions = torch.linalg.solve_triangular(factor.t(), vectors, upper=True)
    directions = directions / directions.norm(dim=0)
    order = rho.argsort(descending=True)
    variance = torch.einsum("df,de,ef->f", directions, cov_xx, directions)
    found = [Feature(float(rho[k] * variance[k]), float(rho[k])) for k in order]
    clash = cov_xx @ both - both @ cov_xx
    mixing = clash.norm() / (2 * cov_xx.norm() * both.norm()).clamp_min(1e-300)
    return Spectrum(found, directions[:, order], float(mixing))


# ---- matrices


@dataclass(frozen=True)
class Network:
    """An encoder's layers, the first one first, and the predictor."""

    layers: tuple[Tensor, ...]  # each D D
    predictor: Tensor  # D D

    def encoder(self) -> Tensor:
        """All layers as one matrix: D D."""
        return _product(self.layers)


def balanced(basis: Tensor, depth: int, start: float, answer: str, generator: torch.Generator) -> Network:
    """A start in which every layer has the same strength and all are aligned with the features: D D ->."""
    _known(answer)
    size, scale = basis.shape[0], start ** (1 / depth)
    turns = [basis]
    for _ in range(depth):
        turns.append(torch.linalg.qr(torch.randn(size, size, generator=generator, dtype=basis.dtype))[0])
    layers = tuple(scale * after @ before.t() for before, after in pairwise(turns))
    back = turns[-1] if answer == "latent" else basis
    return Network(layers, scale * back @ turns[-1].t())


def flow(network: Network, cov_xx: Tensor, cov_yx: Tensor, answer: str, times: Tensor) -> list[Network]:
    """The network at these times under the exact gradient flow of its loss: D D, D D, T -> T networks."""
    _known(answer)

    def velocity(weights: Tensor) -> Tensor:
        *layers, predictor = weights.unbind(0)
        whole = _product(layers)
        wanted = whole @ cov_yx if answer == "latent" else cov_yx
        error = predictor @ whole @ cov_xx - wanted  # what is left to be predicted, against x
        slopes = []
        for k in range(len(layers)):
            after, before = _product(layers[k + 1 :], whole), _product(layers[:k], whole)
            slopes.append(after.t() @ predictor.t() @ error @ before.t())
        return -torch.stack([*slopes, error @ whole.t()])

    state, now, found = torch.stack([*network.layers, network.predictor]), 0.0, []
    for time in times.tolist():
        state, now = integrate(velocity, state, now, time), time
        found.append(Network(tuple(state[:-1]), state[-1]))
    return found


def _product(matrices: Sequence[Tensor], like: Tensor | None = None) -> Tensor:
    """The matrices applied one after the other; of none, the identity of the shape of `like`."""
    result = torch.eye(len(like), dtype=like.dtype) if like is not None else None
    for matrix in matrices:
        result = matrix if result is None else matrix @ result
    assert result is not None
    return result


# Dormand and Prince's pair of orders 5 and 4.
_STAGES = (
    (1 / 5,),
    (3 / 40, 9 / 40),
    (44 / 45, -56 / 15, 32 / 9),
    (19372 / 6561, -25360 / 2187, 64448 / 6561, -212 / 729),
    (9017 / 3168, -355 / 33, 46732 / 5247, 49 / 176, -5103 / 18656),
    (35 / 384, 0, 500 / 1113, 125 / 192, -2187 / 6784, 11 / 84),
)
_ERROR = (71 / 57600, 0, -71 / 16695, 71 / 1920, -17253 / 339200, 22 / 525, -1 / 40)


def integrate(
    velocity: Callable[[Tensor], Tensor], state: Tensor, now: float, end: float, tolerance: float = 1e-11
) -> Tensor:
    """Follow a flow from one time to another, in steps as large as the tolerance allows."""
    step = (end - now) / 10
    while now < end:
        step = min(step, end - now)
        slopes = [velocity(state)]
        for weights in _STAGES:
            moved = sum(w * slope for w, slope in zip(weights, slopes, strict=True))
            ahead = state + step * moved
            slopes.append(velocity(ahead))
        wrong = step * sum(w * slope for w, slope in zip(_ERROR, slopes, strict=True))
        error = float(torch.as_tensor(wrong).abs().max() / (tolerance * (1 + state.abs().max())))
        if error <= 1:
            state, now = ahead, now + step
        step *= min(5.0, max(0.2, 0.9 * max(error, 1e-10) ** -0.2))
        if now + step == now:
            raise ModelError("the flow is too fast to follow; use a smaller covariance or shorter times")
    return state


# ---- one feature


def _passed(odds: Tensor, feature: Feature, depth: int, answer: str) -> Tensor:
    """The time that has passed at each of these evenly spaced odds: T -> T.

    By trapezoids corrected with the slopes at their sides: almost all time passes at the start, and an error
    there would be many lifetimes of what happens later.
    """
    rate, step = _seconds_per_odds(odds, feature, depth, answer), float(odds[1] - odds[0])
    (slope,) = torch.gradient(rate, spacing=step, edge_order=2)
    parts = step / 2 * (rate[1:] + rate[:-1]) + step**2 / 12 * (slope[:-1] - slope[1:])
    return torch.cat([parts.new_zeros(1), parts.cumsum(0)])


def _seconds_per_odds(odds: Tensor, feature: Feature, depth: int, answer: str) -> Tensor:
    """dt / du along v = end sigmoid(u): near both ends nothing diverges."""
    end = fixed_point(feature, depth, answer) ** (1 / depth)
    near = torch.sigmoid(odds)  # of the way gone
    v = end * near
    if answer == "latent":  # cov - variance v = cov (1 - v / end)
        return end * near / (v ** (2 * depth) * feature.cov)
    # 1 - near^(L + 1) = (1 - near) (1 + near + … + near^L)
    powers = sum(near**k for k in range(depth + 1))
    return end * near / (v**depth * feature.cov * powers)


def _odds(v: float, end: float) -> float:
    share = torch.tensor(v / end, dtype=torch.float64)
    return float(torch.logit(share))


def _range(feature: Feature, depth: int, start: float, answer: str, fraction: float) -> tuple[float, float]:
    """A layer's strength at the start and at a fraction of the end, if it grows from one to the other."""
    _known(answer)
    if depth < 1 or not 0 < fraction < 1:
        raise ModelError(f"depth={depth} must be at least 1 and fraction={fraction} lie between 0 and 1")
    if not (feature.cov > 0 and feature.rho > 0 and start > 0):
        raise ModelError(f"cov, rho and start must be positive, not {feature.cov}, {feature.rho} and {start}")
    reached = fraction * fixed_point(feature, depth, answer)
    if start >= reached:
        raise ModelError(
            f"a feature of rho={feature.rho} begins at {start:g}, not below {fraction:g} of its end "
            f"({reached:g}): it decays or is there at once, and has no time of learning; use a smaller start"
        )
    return start ** (1 / depth), reached ** (1 / depth)


def _known(answer: str) -> None:
    if answer not in ANSWERS:
        raise ModelError(f"answer={answer!r} is unknown; choose {' or '.join(ANSWERS)}")

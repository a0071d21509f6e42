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
    passed = _passed(odds, feature, depth, answer)
    wanted = times.double().clamp(max=float(passed[-1]))
    right = torch.searchsorted(passed, wanted).clamp(1, POINTS - 1)
    share = (wanted - passed[right - 1]) / (passed[right] - passed[right - 1])
    return (end * torch.sigmoid(odds[right - 1] + share * (odds[right] - odds[right - 1]))) ** depth


def order(features: Sequence[Feature], depth: int, start: float, answer: str) -> list[int]:
    """The numbers of the features, the one that is learned first first."""
    times = [critical_time(feature, depth, start, answer) for feature in features]
    return sorted(range(len(features)), key=times.__getitem__)


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
        state, now = _integrate(velocity, state, now, time), time
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


def _integrate(
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

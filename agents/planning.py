"""Planners: they see a cost of candidate action sequences, never a model, and draw no random numbers.

All noise comes in as standard normals, so that a whole search is one pure function to compile.
"""

from collections.abc import Callable
from typing import NamedTuple, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

Cost = Callable[[Tensor], Tensor]
"""Candidates to what each of K judges makes of them: B S H A -> B S K."""


def choose(probs: Tensor, noise: Tensor) -> Tensor:
    """Draw one-hot choices with these probabilities from standard normals: ... A, ... A -> ... A."""
    uniform = torch.special.ndtr(noise).clamp(1e-7, 1 - 1e-7)
    gumbel = -(-uniform.log()).log()
    return F.one_hot((probs.clamp_min(1e-9).log() + gumbel).argmax(-1), probs.shape[-1]).to(probs.dtype)


class Proposal(Protocol):
    """A distribution over action sequences that can be sampled from and refitted to weighted samples."""

    def sample(self, noise: Tensor) -> Tensor:
        """Turn standard normals into candidates: B S H A -> B S H A."""
        ...

    def refit(self, elites: Tensor, weights: Tensor) -> None:
        """Move towards the weighted elites: B K H A, B K."""
        ...

    @property
    def mean(self) -> Tensor:
        """The expected sequence: B H A."""
        ...


class Gaussian:
    """Independent normals clipped to [-1, 1]; the standard deviation never falls below a floor."""

    def __init__(self, mean: Tensor, *, std: float = 1.0, std_min: float = 0.05) -> None:
        self._mean = mean
        self._std = torch.full_like(mean, std)
        self._std_min, self._std_max = std_min, std

    @property
    def mean(self) -> Tensor:
        """The expected sequence: B H A."""
        return self._mean

    def sample(self, noise: Tensor) -> Tensor:
        """Turn standard normals into candidates: B S H A -> B S H A."""
        return (self._mean[:, None] + self._std[:, None] * noise).clamp(-1, 1)

    def refit(self, elites: Tensor, weights: Tensor) -> None:
        """Take the weighted mean and deviation of the elites: B K H A, B K."""
        w = weights[:, :, None, None]
        self._mean = (w * elites).sum(1)
        variance = (w * (elites - self._mean[:, None]).square()).sum(1)
        self._std = variance.sqrt().clamp(self._std_min, self._std_max)


class Categorical:
    """Independent choices, one-hot; every choice keeps a small probability so that the search cannot die."""

    def __init__(self, mean: Tensor, *, floor: float = 0.02) -> None:
        self._floor = floor
        self._set(mean)

    def _set(self, mean: Tensor) -> None:
        choices = mean.shape[-1]
        self._probs = (mean.clamp_min(0) + self._floor / choices) / (
            mean.clamp_min(0).sum(-1, True) + self._floor
        )

    @property
    def mean(self) -> Tensor:
        """The probabilities: B H A."""
        return self._probs

    def sample(self, noise: Tensor) -> Tensor:
        """Turn standard normals into one-hot candidates: B S H A -> B S H A."""
        return choose(self._probs[:, None], noise)

    def refit(self, elites: Tensor, weights: Tensor) -> None:
        """Take the weighted frequencies of the elites: B K H A, B K."""
        self._set((weights[:, :, None, None] * elites).sum(1))


class Found(NamedTuple):
    """What a search has found; a row whose candidates all have non-finite costs has a plan of NaN."""

    plan: Tensor  # B H A, the best
    costs: Tensor  # B K, what every judge makes of it
    guide: Tensor | None  # B K, and of the first guide
    mean: Tensor  # B H A, the refined expectation, for a warm start


def mppi(
    cost: Cost,
    proposal: Proposal,
    noise: Tensor,
    *,
    opening: Callable[[Tensor], tuple[Tensor, Tensor]] | None = None,
    elites: int,
    temperature: float,
) -> Found:
    """Refine a proposal by exponentially weighted elites, once per leading entry of the noise (I B S H A).

    A candidate is as good as its most pessimistic judge says. `opening` judges the first candidates together
    with guides that it puts before them, such as sequences from a policy (B S H A -> B G+S H A, B G+S K):
    guides compete in every round but are never resampled.
    """
    best, told, guides = proposal.mean, None, None
    for draw in noise:
        candidates = proposal.sample(draw)
        if opening is not None and guides is None:
            candidates, costs = opening(candidates)
            count = candidates.shape[1] - draw.shape[1]
            guides = candidates[:, :count], costs[:, :count]
        else:
            costs = cost(candidates)
            if guides is not None:
                candidates = torch.cat([guides[0], candidates], 1)
                costs = torch.cat([guides[1], costs], 1)
        # A non-finite cost must never win, nor poison the weighted mean.
        worst = torch.nan_to_num(costs.amax(-1), nan=torch.inf, posinf=torch.inf, neginf=-1e30)
        top, index = worst.topk(min(elites, worst.shape[1]), dim=1, largest=False)
        chosen = candidates.gather(1, index[:, :, None, None].expand(-1, -1, *candidates.shape[2:]))
        usable = top.isfinite()
        # Subtracting the best first keeps exp() in range whatever the scale of the costs.
        spread = torch.where(usable, top, top[:, :1]) - top[:, :1].nan_to_num(posinf=0.0)
        scale = spread.mean(1, keepdim=True).clamp_min(1e-6)
        weights = torch.where(usable, torch.exp(-spread / (temperature * scale)), 0.0)
        weights = weights / weights.sum(1, keepdim=True).clamp_min(1e-9)
        proposal.refit(chosen, weights)
        best = torch.where(usable[:, :1, None], chosen[:, 0], torch.nan)
        told = costs.gather(1, index[:, :1, None].expand(-1, -1, costs.shape[-1]))[:, 0]
    assert told is not None, "a search needs noise"
    return Found(best, told, None if guides is None else guides[1][:, 0], proposal.mean)

"""Planners: they see a cost of candidate action sequences, never a model."""

from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor

Cost = Callable[[Tensor], Tensor]
"""Candidates to costs: B S H A -> B S."""


class Proposal(Protocol):
    """A distribution over action sequences that can be sampled from and refitted to weighted samples."""

    def sample(self, count: int, generator: torch.Generator) -> Tensor:
        """Draw candidates: B count H A."""
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

    def sample(self, count: int, generator: torch.Generator) -> Tensor:
        """Draw candidates: B count H A."""
        b, h, a = self._mean.shape
        noise = torch.randn((b, count, h, a), generator=generator, device=self._mean.device)
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

    def sample(self, count: int, generator: torch.Generator) -> Tensor:
        """Draw one-hot candidates: B count H A."""
        b, h, a = self._probs.shape
        index = torch.multinomial(self._probs.reshape(b * h, a), count, replacement=True, generator=generator)
        one_hot = torch.nn.functional.one_hot(index, a).to(self._probs.dtype)
        return one_hot.view(b, h, count, a).transpose(1, 2)

    def refit(self, elites: Tensor, weights: Tensor) -> None:
        """Take the weighted frequencies of the elites: B K H A, B K."""
        self._set((weights[:, :, None, None] * elites).sum(1))


def mppi(
    cost: Cost,
    proposal: Proposal,
    *,
    guides: Tensor | None = None,
    samples: int,
    elites: int,
    iterations: int,
    temperature: float,
    generator: torch.Generator,
) -> tuple[Tensor, Tensor]:
    """Refine a proposal by exponentially weighted elites; also keep fixed `guides` in every round.

    Returns the plan B H A (the best elite, drawn by nobody: deterministic) and the refined mean B H A for a
    warm start. `guides` (B G H A) are sequences from a policy: they compete but are never resampled.
    """
    best = proposal.mean
    for _ in range(iterations):
        candidates = proposal.sample(samples, generator)
        if guides is not None:
            candidates = torch.cat([guides, candidates], 1)
        # A non-finite cost must never win, nor poison the weighted mean.
        costs = torch.nan_to_num(cost(candidates), nan=torch.inf, posinf=torch.inf, neginf=-1e30)
        top, index = costs.topk(min(elites, candidates.shape[1]), dim=1, largest=False)
        chosen = candidates.gather(1, index[:, :, None, None].expand(-1, -1, *candidates.shape[2:]))
        usable = top.isfinite()
        # Subtracting the best first keeps exp() in range whatever the scale of the costs.
        spread = torch.where(usable, top, top[:, :1]) - top[:, :1].nan_to_num(posinf=0.0)
        scale = spread.mean(1, keepdim=True).clamp_min(1e-6)
        weights = torch.where(usable, torch.exp(-spread / (temperature * scale)), 0.0)
        weights = weights / weights.sum(1, keepdim=True).clamp_min(1e-9)
        if not bool(usable.any(1).all()):
            raise FloatingPointError("every candidate plan has a non-finite cost: the model has diverged")
        proposal.refit(chosen, weights)
        best = chosen[:, 0]
    return best, proposal.mean

"""What can be read from representations: small heads on frozen features, judged on unseen episodes."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

RIDGES = (1e-6, 1e-4, 1e-2, 1.0)
HEADS = ("linear", "mlp")


class Split(NamedTuple):
    """Rows to fit with, to choose hyper-parameters with, to be judged on: each N, no episode in two."""

    fit: Tensor
    choose: Tensor
    judge: Tensor


class Score(NamedTuple):
    """How much of the labels is explained, by four customs; 0 is what their mean explains, 1 is all."""

    uniform: float  # R2 of every label, averaged
    weighted: float  # labels that vary more count more
    pooled: (
        float  # one mean for all labels together, so that a constant can score above 0: not to be compared
    )
    accuracy: float  # share of rows whose largest label was found: for one-hot labels


def split(episodes: Tensor, *, seed: int = 0) -> Split:
    """Deal whole episodes out, half to fit, a fifth to choose, the rest to judge: N -> masks of N."""
    names = episodes.unique()
    if len(names) < 4:
        raise ValueError(f"probes need at least 4 episodes to keep apart, not {len(names)}")
    order = names[torch.randperm(len(names), generator=torch.Generator().manual_seed(seed))]
    first = len(names) // 2
    second = first + max(len(names) // 5, 1)
    return Split(
        *(torch.isin(episodes, part) for part in (order[:first], order[first:second], order[second:]))
    )


def score(predicted: Tensor, truth: Tensor) -> Score:
    """Judge predictions of labels: N L, N L. Labels that do not vary have nothing to be explained."""
    error, spread = (predicted - truth).square().mean(0), truth.var(0, unbiased=False)
    varies = spread > 1e-10
    if not varies.any():
        return Score(*(float("nan"),) * 4)
    uniform = (1 - error[varies] / spread[varies]).mean()
    weighted = 1 - error[varies].sum() / spread[varies].sum()
    pooled = 1 - (predicted - truth).square().mean() / truth.var(unbiased=False)
    accuracy = (predicted.argmax(1) == truth.argmax(1)).double().mean()
    return Score(uniform.item(), weighted.item(), pooled.item(), accuracy.item())


def probe(features: Tensor, labels: Tensor, parts: Split, *, head: str = "linear", seed: int = 0) -> Score:
    """Fit a head on frozen features and judge it on other episodes: N F, N L -> score."""
    predicted = predict(features, labels, parts, head=head, seed=seed)
    return score(predicted[parts.judge], labels.detach().double()[parts.judge])


def predict(features: Tensor, labels: Tensor, parts: Split, *, head: str = "linear", seed: int = 0) -> Tensor:
    """Fit a head on frozen features and read labels from all of them with it: N F, N L -> N L."""
    if head not in HEADS:
        raise ValueError(f"head={head!r} is unknown; choose {' or '.join(HEADS)}")
    x, y = _standardised(features.detach().double(), parts.fit), labels.detach().double()
    mean, std = y[parts.fit].mean(0), y[parts.fit].std(0).clamp_min(1e-6)
    target = (y - mean) / std
    predicted = _ridge(x, target, parts) if head == "linear" else _mlp(x, target, parts, seed)
    return predicted * std + mean


def retrieval(predicted: Tensor, truth: Tensor) -> dict[str, float]:
    """Rank the truth among all N candidates by cosine, for every row: N D, N D -> MRR, H@1, H@5."""
    likeness = F.normalize(predicted, dim=1) @ F.normalize(truth, dim=1).t()
    # Ties count half: where all candidates are alike, the middle rank is the honest one.
    own = likeness.diagonal()[:, None]
    rank = 1 + (likeness > own).sum(1) + ((likeness == own).sum(1) - 1) / 2
    return {
        "mrr": (1 / rank).mean().item(),
        "hit@1": (rank <= 1).double().mean().item(),
        "hit@5": (rank <= 5).double().mean().item(),
    }


def _standardised(x: Tensor, fit: Tensor) -> Tensor:
    std = x[fit].std(0)
    # What hardly varies where it was fitted may explode elsewhere.
    return torch.where(std > 1e-8, (x - x[fit].mean(0)) / std.clamp_min(1e-8), 0.0)


def _ridge(x: Tensor, y: Tensor, parts: Split) -> Tensor:
    """Ridge regression whose strength other episodes choose: N F, N L -> N L."""
    ones = torch.cat([x, torch.ones_like(x[:, :1])], 1)
    inner = ones[parts.fit]
    gram, moment = inner.t() @ inner / len(inner), inner.t() @ y[parts.fit] / len(inner)
    best, least = torch.zeros_like(y), float("inf")
    for strength in RIDGES:
        weights = torch.linalg.solve(gram + strength * torch.eye(len(gram), dtype=x.dtype), moment)
        predicted = ones @ weights
        error = (predicted - y)[parts.choose].square().mean().item()
        if error < least:
            best, least = predicted, error
    return best


def _mlp(x: Tensor, y: Tensor, parts: Split, seed: int, *, width: int = 128, epochs: int = 60) -> Tensor:
    """A network of two hidden layers, kept as it was when it did best on other episodes: N F, N L -> N L."""
    with torch.random.fork_rng([]):
        torch.manual_seed(seed)
        x, y = x.float(), y.float()
        layers = [nn.Linear(x.shape[1], width), nn.ReLU(), nn.Linear(width, width), nn.ReLU()]
        net = nn.Sequential(*layers, nn.Linear(width, y.shape[1]))
        optimiser = torch.optim.AdamW(net.parameters(), lr=1e-3, weight_decay=1e-2)
        rows, best, least, waited = parts.fit.nonzero()[:, 0], torch.zeros_like(y), float("inf"), 0
        for _ in range(epochs):
            for batch in rows[torch.randperm(len(rows))].split(256):
                loss = (net(x[batch]) - y[batch]).square().mean()
                optimiser.zero_grad()
                loss.backward()
                optimiser.step()
            with torch.no_grad():
                predicted = net(x)
            error, waited = (predicted - y)[parts.choose].square().mean().item(), waited + 1
            if error < least:
                best, least, waited = predicted, error, 0
            if waited >= 8:
                break
    return best.double()


def stack(parts: Sequence[Tensor]) -> Tensor:
    """Put features of the same rows side by side: N F, N G -> N F+G."""
    return torch.cat([part.flatten(1) for part in parts], 1)

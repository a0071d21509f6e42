"""What a critic regresses on: n rewards and a value, over windows that may end early."""

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

LEAST_WEIGHT = 0.01  # what is drawn less often than this counts as drawn so often


class Values(NamedTuple):
    """Returns to regress on and the mask of rows that have one: B T-1."""

    returns: Tensor
    mask: Tensor


def discount_for(frames: int | None, action_repeat: int, horizons: float) -> float:
    """Discount of which an episode holds so many horizons, within [0.95, 0.995]."""
    if frames is None:
        return 0.99
    horizon = max(math.ceil(frames / action_repeat) / horizons, 2.0)
    return min(max((horizon - 1) / horizon, 0.95), 0.995)


def bootstrap_rows(valid: Tensor, n: int) -> Tensor:
    """Rows that returns bootstrap from: n..T-1, each clamped to the window's last valid row: B T -> B T-n."""
    last = valid.sum(1, keepdim=True) - 1
    rows = torch.arange(n, valid.shape[1], device=valid.device)
    return torch.minimum(rows, last).clamp_min(0)


def n_step(
    reward: Tensor, terminated: Tensor, valid: Tensor, value: Tensor, discount: float, n: int
) -> Values:
    """Sum n rewards from each row, or as many as the window has, then bootstrap: B T, values B T-n -> B T-1.

    Rows are arrivals: reward[t] and terminated[t] belong to the transition into t. `value` holds the values
    at `bootstrap_rows`. A truncated episode ends the window but not the task, so its last row bootstraps like
    any other; only termination has no future.
    """
    mask = valid[:, 1:].to(value.dtype)
    steps = mask.shape[1]
    padded = F.pad(reward[:, 1:] * mask, (0, n - 1))
    gains = sum(discount**k * padded[:, k : k + steps] for k in range(n))
    start = torch.arange(steps, device=value.device)
    slot = (start + n).clamp_max(steps) - n
    at = bootstrap_rows(valid, n)[:, slot]
    ahead = (at - start).clamp_min(0).to(value.dtype)
    future = value[:, slot] * (1 - terminated.gather(1, at).to(value.dtype))
    return Values(gains + discount**ahead * future, mask)


def rewarded_share(reward: Tensor, valid: Tensor, weight: Tensor) -> Tensor:
    """The share of rows with a reward worth the name among all that windows are drawn from: B T -> 0-d.

    Windows that are drawn `weight` times as often as others count for so much less, or a few rewards that are
    replayed over and over would look like many.
    """
    size = reward.abs() * valid
    odds = 1 / weight.clamp_min(LEAST_WEIGHT)
    return ((size > 0.01 * size.amax()) * odds).sum() / (valid * odds).sum()

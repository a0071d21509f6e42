"""Weights that lie side by side in one tensor, so that one operation reaches them all."""

from collections.abc import Sequence
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor, nn

ALIGN = 16  # numbers: every weight begins at a multiple of 64 bytes, as if it had memory of its own


class Flat:
    """Weights as views of one tensor, `whole`, which an optimiser, a norm or an average takes for one weight.

    Some fifty small weights cost each of those more in calls than in arithmetic.
    """

    def __init__(self, weights: Sequence[nn.Parameter]) -> None:
        self.weights = list(weights)
        rooms = [-(-weight.numel() // ALIGN) * ALIGN for weight in self.weights]
        self._starts = [0, *accumulate(rooms)]
        whole = self.weights[0].new_zeros(self._starts[-1])
        for weight, place in zip(self.weights, self.parts(whole), strict=True):
            place.copy_(weight.detach())
            weight.data = place
        self.whole = nn.Parameter(whole, requires_grad=False)
        self._slopes: list[Tensor] = []  # of what learns; averages need none

    def parts(self, whole: Tensor) -> list[Tensor]:
        """Split a tensor of the whole's size as the weights lie in it, without copying."""
        starts = self._starts[:-1]
        return [
            whole[start : start + weight.numel()].view(weight.shape)
            for start, weight in zip(starts, self.weights, strict=True)
        ]

    def forget_slopes(self) -> None:
        """Make the next backward pass write new gradients instead of adding to what is there."""
        for weight in self.weights:
            weight.grad = None

    @torch.no_grad()
    def collect_slopes(self) -> None:
        """Bring the gradients of the weights together; one that nothing depended on has none, which is 0."""
        if self.whole.grad is None:
            self.whole.grad = torch.zeros_like(self.whole)
            self._slopes = self.parts(self.whole.grad)
        places, slopes = [], []
        for place, weight in zip(self._slopes, self.weights, strict=True):
            if weight.grad is None:
                place.zero_()
            else:
                places.append(place)
                slopes.append(weight.grad)
        if places:  # else the foreach operation complains
            torch._foreach_copy_(places, slopes)  # pyright: ignore[reportPrivateImportUsage]

    @torch.no_grad()
    def clip_slopes(self, limit: float) -> Tensor:
        """Shorten the collected gradients to at most `limit` and return how long they were, 0-d."""
        slopes = self.whole.grad
        assert slopes is not None, "collect the slopes first"
        norm = slopes.norm()
        slopes *= (limit / (norm + 1e-6)).clamp(max=1.0)
        return norm


def split_state(state: dict[str, Any], flats: Sequence[Flat]) -> dict[str, Any]:
    """Spell the state of an optimiser with one whole per group for each weight, as checkpoints hold it."""
    each: dict[int, dict[str, Tensor]] = {}
    groups, count = [], 0
    for k, (flat, group) in enumerate(zip(flats, state["param_groups"], strict=True)):
        numbers = range(count, count + len(flat.weights))
        count += len(numbers)
        groups.append(group | {"params": list(numbers)})
        for name, value in state["state"].get(k, {}).items():
            parts = flat.parts(value) if value.dim() else [value.clone() for _ in numbers]
            for number, part in zip(numbers, parts, strict=True):
                each.setdefault(number, {})[name] = part
    return {"state": each, "param_groups": groups}


def join_state(state: dict[str, Any], flats: Sequence[Flat]) -> dict[str, Any]:
    """Undo `split_state`, with tensors of its own; a weight that was never moved has zeros."""
    whole: dict[int, dict[str, Tensor]] = {}
    groups = []
    for k, (flat, group) in enumerate(zip(flats, state["param_groups"], strict=True)):
        groups.append(group | {"params": [k]})
        for number, place in enumerate(group["params"]):
            for name, value in state["state"].get(place, {}).items():
                if value.dim():
                    known = whole.setdefault(k, {}).setdefault(name, torch.zeros_like(flat.whole))
                    flat.parts(known)[number].copy_(value)
                else:
                    whole.setdefault(k, {})[name] = value.clone()
    return {"state": whole, "param_groups": groups}

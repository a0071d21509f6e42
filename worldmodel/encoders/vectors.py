"""Turn the float observations of a dict into one well-scaled vector."""

from collections.abc import Mapping
from math import prod
from typing import Any

import torch
from torch import Tensor, nn

from ..blocks import symlog
from ..errors import ModelError

Observations = Mapping[str, Tensor]
Facts = Mapping[str, Mapping[str, Any]]


class Vectors(nn.Module):
    """Concatenate the float keys in sorted order and scale them: dict of [..., *shape] -> ... V."""

    count: Tensor
    mean: Tensor
    deviation: Tensor
    shift: Tensor
    scale: Tensor

    def __init__(self, observation: Facts, scaling: str) -> None:
        super().__init__()
        if scaling not in ("running", "symlog", "none"):
            raise ModelError(f"scaling={scaling!r} is unknown; choose running, symlog or none")
        self.keys = tuple(sorted(key for key, fact in observation.items() if fact["dtype"] == "float32"))
        self.axes = {key: len(observation[key]["shape"]) for key in self.keys}
        self.size = sum(prod(observation[key]["shape"]) for key in self.keys)
        self.scaling = scaling if self.size else "none"
        if self.scaling == "running":
            # float64: a million-sample mean in float32 stops moving.
            self.register_buffer("count", torch.zeros((), dtype=torch.float64))
            self.register_buffer("mean", torch.zeros(self.size, dtype=torch.float64))
            self.register_buffer("deviation", torch.zeros(self.size, dtype=torch.float64))
            self.register_buffer("shift", torch.zeros(self.size))
            self.register_buffer("scale", torch.ones(self.size))

    def concatenate(self, obs: Observations) -> Tensor:
        """Join the keys without scaling: dict of [..., *shape] -> ... V."""
        flat = [
            obs[key].flatten(-self.axes[key]) if self.axes[key] else obs[key][..., None] for key in self.keys
        ]
        if (shown := sum(x.shape[-1] for x in flat)) != self.size:  # one number would be taken for all
            raise ModelError(f"{', '.join(self.keys)} have {self.size} entries, and {shown} are shown")
        return flat[0].float() if len(flat) == 1 else torch.cat(flat, -1).float()

    @torch.no_grad()
    def observe(self, obs: Observations) -> None:
        """Add observations to the running mean and variance (Welford, by batches): dict of [..., *shape]."""
        if self.scaling != "running":
            return
        x = self.concatenate(obs).reshape(-1, self.size).double()
        if not x.shape[0]:
            return
        count, mean, deviation = self.count, self.mean, self.deviation
        fresh_mean = x.mean(0)
        total = count + x.shape[0]
        delta = fresh_mean - mean
        deviation += (x - fresh_mean).square().sum(0) + delta.square() * count * x.shape[0] / total
        mean += delta * x.shape[0] / total
        count.copy_(total)
        self.shift.copy_(mean)
        # The floor keeps a constant entry (a fixed target position) from being blown up by rounding noise.
        self.scale.copy_((deviation / total).sqrt().clamp_min(1e-2).reciprocal())

    def forward(self, obs: Observations) -> Tensor:
        """Join and scale: dict of [..., *shape] -> ... V."""
        x = self.concatenate(obs)
        if self.scaling == "symlog":
            return symlog(x)
        if self.scaling == "running":
            return ((x - self.shift) * self.scale).clamp(-10.0, 10.0)
        return x

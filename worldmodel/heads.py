"""Heads: reward as a distribution over bins and continuation as a logit, from the predictor's trunk; and
what was seen, from a latent.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .blocks import mlp, symexp
from .errors import ModelError


class Bins(nn.Module):
    """Represent numbers as distributions over symexp-spaced bins, symmetric around zero."""

    values: Tensor

    def __init__(self, count: int = 101, limit: float = 10.0) -> None:
        super().__init__()
        if count < 3 or count % 2 == 0 or not 0 < limit <= 20:
            raise ModelError(
                f"bins must be odd and at least 3, and 0 < limit <= 20; not bins={count}, limit={limit}"
            )
        upper = symexp(torch.linspace(0.0, limit, count // 2 + 1, dtype=torch.float64)[1:]).float()
        self.register_buffer("values", torch.cat([-upper.flip(0), torch.zeros(1), upper]))

    def weights(self, value: Tensor) -> Tensor:
        """Split numbers over the two bins around them, so that their mean is the number: ... -> ... K."""
        bins = self.values
        value = value[..., None].float().clamp(bins[0], bins[-1])
        gaps = bins.diff()
        # Interpolated between raw bin values: interpolating symlogs would bias the expectation.
        rising = F.pad((value - bins[:-1]) / gaps, (1, 0), value=1.0)
        falling = F.pad((bins[1:] - value) / gaps, (0, 1), value=1.0)
        return torch.minimum(rising, falling).clamp(0.0, 1.0)

    def log_prob(self, logits: Tensor, value: Tensor) -> Tensor:
        """Score numbers under the distribution: ... K, ... -> ..."""
        return (self.weights(value) * logits.float().log_softmax(-1)).sum(-1)

    def loss(self, logits: Tensor, value: Tensor) -> Tensor:
        """Return the cross-entropy with the two-hot code of numbers: ... K, ... -> ..."""
        return -self.log_prob(logits, value)

    def mean(self, logits: Tensor) -> Tensor:
        """Return the expectation: ... K -> ..."""
        p = logits.float().softmax(-1)
        half = p.shape[-1] // 2
        # Bins pair up as +-b: subtracting probabilities first cancels exactly what a plain sum would round.
        # Mirrored by index: torch 2.13 compiles the backward pass of a flipped slice on CPUs wrongly.
        mirrored = p[..., torch.arange(half - 1, -1, -1, device=p.device)]
        return ((p[..., half + 1 :] - mirrored) * self.values[half + 1 :]).sum(-1)


class TwoHot(Bins):
    """Read a number from the trunk as a distribution over bins: ... F -> ... K."""

    def __init__(self, trunk_size: int, *, bins: int = 101, limit: float = 7.0) -> None:
        super().__init__(bins, limit)
        self.linear = nn.Linear(trunk_size, bins)
        # Uniform logits over symmetric bins: an untrained head says exactly zero.
        nn.init.zeros_(self.linear.weight)
        nn.init.zeros_(self.linear.bias)

    def forward(self, trunk: Tensor) -> Tensor:
        """Read logits: ... F -> ... K."""
        return self.linear(trunk)


class Continuation(nn.Module):
    """Predict the logit that the episode goes on: ... F -> ..."""

    def __init__(self, trunk_size: int) -> None:
        super().__init__()
        self.linear = nn.Linear(trunk_size, 1)

    def forward(self, trunk: Tensor) -> Tensor:
        """Read the logit: ... F -> ..."""
        return self.linear(trunk).squeeze(-1)

    def loss(self, logit: Tensor, continues: Tensor) -> Tensor:
        """Return the cross-entropy with "goes on" (1) or "ended" (0): ..., ... -> ..."""
        return F.binary_cross_entropy_with_logits(logit.float(), continues.float(), reduction="none")

    def mean(self, logit: Tensor) -> Tensor:
        """Return the probability that the episode goes on: ... -> ..."""
        return logit.float().sigmoid()


class Decoder(nn.Module):
    """Say what an encoder of vectors was shown, scaled as it reads it: latent ... D -> ... V."""

    def __init__(
        self, latent_size: int, input_size: int, *, hidden: Sequence[int] = (256,), activation: str = "silu"
    ) -> None:
        super().__init__()
        sizes = [latent_size, *hidden]
        self.trunk = mlp(sizes, activation=activation)
        self.linear = nn.Linear(sizes[-1], input_size)

    def forward(self, latent: Tensor) -> Tensor:
        """Read back: ... D -> ... V."""
        return self.linear(self.trunk(latent))


HEADS: dict[str, type[TwoHot] | type[Continuation] | type[Decoder]] = {
    "reward": TwoHot,
    "continuation": Continuation,
    "decoder": Decoder,
}

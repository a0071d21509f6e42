"""Encode images, with any vectors that come along."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ..blocks import build_normaliser, mlp
from ..errors import ModelError
from .vectors import Facts, Observations, Vectors

SMALLEST, LARGEST = 32, 128


def image_keys(observation: Facts) -> tuple[str, ...]:
    """Name the uint8 images (C Y X) in sorted order; there must be some, all of one size."""
    keys = tuple(sorted(k for k, f in observation.items() if f["dtype"] == "uint8" and len(f["shape"]) == 3))
    if not keys:
        raise ModelError(
            f"this encoder needs a uint8 image (channels, height, width), and there is only "
            f"{', '.join(observation)}; use worldmodel/encoder=mlp or an environment that renders pixels"
        )
    sizes = {tuple(observation[key]["shape"][1:]) for key in keys}
    if len(sizes) > 1:
        raise ModelError(
            f"the images {', '.join(keys)} differ in size {sorted(sizes)}; render them at one size"
        )
    return keys


class ConvEncoder(nn.Module):
    """Encode images with stride-2 convolutions: dict of uint8 [B, T, C, Y, X] (and floats) -> B T D.

    With `pooled` the latent is the mean over space of the last convolution, non-negative, as published.
    """

    def __init__(
        self,
        observation: Facts,
        *,
        channels: Sequence[int] = (32, 32, 64, 64),
        hidden: Sequence[int] = (256,),
        latent: int = 128,
        activation: str = "silu",
        norm: str = "none",
        pooled: bool = False,
        normaliser: str = "simnorm",
        scaling: str = "running",
    ) -> None:
        super().__init__()
        self.size = latent
        if norm not in ("none", "batch"):
            raise ModelError(f"encoder norm={norm!r} is unknown; choose none or batch")
        self.keys = image_keys(observation)
        depth = sum(observation[key]["shape"][0] for key in self.keys)
        height, width = observation[self.keys[0]]["shape"][1:]
        if min(height, width) < SMALLEST or max(height, width) > LARGEST:
            raise ModelError(
                f"encoder conv takes images from {SMALLEST} to {LARGEST} pixels, not "
                f"{height}x{width}; render at 64x64"
            )
        shrink = 2 ** len(channels)
        if min(height, width) < shrink:
            raise ModelError(f"{len(channels)} stride-2 convolutions need images of at least {shrink} pixels")
        convolutions: list[nn.Module] = []
        for wide, narrow in zip([depth, *channels[:-1]], channels, strict=True):
            # Batch normalisation subtracts any bias again.
            convolution = nn.Conv2d(wide, narrow, 4, stride=2, padding=1, bias=norm == "none")
            scaled = [nn.BatchNorm2d(narrow)] if norm == "batch" else []
            convolutions += [convolution, *scaled, nn.ReLU()]
        self.convolutions = nn.Sequential(*convolutions)
        self.vectors = Vectors(observation, scaling)
        pixels = channels[-1] * (height // shrink) * (width // shrink)
        sizes = [pixels + self.vectors.size, *hidden]
        self.pooled = pooled
        if pooled and (hidden or latent != channels[-1] or self.vectors.size):
            raise ModelError(
                "encoder pooled=true takes the last convolution's means as they are, so it needs "
                f"hidden=[], latent={channels[-1]} and images alone"
            )
        self.trunk = mlp(sizes, activation=activation)
        self.head = nn.Identity() if pooled else nn.Linear(sizes[-1], latent)
        self.normaliser = build_normaliser(normaliser, latent)

    def observe(self, obs: Observations) -> None:
        """Add the float observations to the running normalisation, if there is one: dict of [..., *shape]."""
        self.vectors.observe(obs)

    def forward(self, obs: Observations) -> Tensor:
        """Encode: dict of [B, T, *shape] -> B T D."""
        images = [obs[key] for key in self.keys]
        x = images[0] if len(images) == 1 else torch.cat(images, -3)
        lead = x.shape[:-3]
        # Channels last: a quarter less time for forward and backward on a CPU.
        x = x.flatten(0, -4).float().contiguous(memory_format=torch.channels_last)
        features = self.convolutions(x.div(255.0).sub(0.5))
        features = features.mean((-2, -1)) if self.pooled else features.flatten(1)
        features = features.unflatten(0, lead)
        if self.vectors.size:
            features = torch.cat([features, self.vectors(obs)], -1)
        return self.normaliser(self.head(self.trunk(features)))

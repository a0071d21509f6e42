"""The 18-layer residual network of the paper's form, with batch normalisation."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..blocks import build_normaliser
from ..errors import ModelError
from .conv import image_keys
from .vectors import Facts, Observations


class Residual(nn.Module):
    """Two 3x3 convolutions and a shortcut: B C Y X -> B K Y/s X/s."""

    def __init__(self, wide: int, narrow: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(wide, narrow, 3, stride, 1, bias=False)
        self.norm1 = nn.BatchNorm2d(narrow)
        self.conv2 = nn.Conv2d(narrow, narrow, 3, 1, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(narrow)
        # A block that starts as the identity trains better from scratch; the paper's code does the same.
        nn.init.zeros_(self.norm2.weight)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or wide != narrow:
            self.shortcut = nn.Sequential(
                nn.Conv2d(wide, narrow, 1, stride, bias=False), nn.BatchNorm2d(narrow)
            )

    def forward(self, x: Tensor) -> Tensor:
        """Apply the block: B C Y X -> B K Y/s X/s."""
        y = F.relu(self.norm1(self.conv1(x)))
        return F.relu(self.norm2(self.conv2(y)) + self.shortcut(x))


class ResNet18Encoder(nn.Module):
    """Encode images into 512 pooled, non-negative features: dict of uint8 [B, T, C, Y, X] -> B T 512."""

    size = 512
    shift: Tensor
    scale: Tensor

    def __init__(
        self,
        observation: Facts,
        *,
        stem: str = "standard",
        mean: Sequence[float] = (0.5, 0.5, 0.5),
        std: Sequence[float] = (0.5, 0.5, 0.5),
        normaliser: str = "none",
    ) -> None:
        super().__init__()
        self.keys = image_keys(observation)
        depth = sum(observation[key]["shape"][0] for key in self.keys)
        if stem == "standard":
            self.stem = nn.Sequential(
                nn.Conv2d(depth, 64, 7, 2, 3, bias=False),
                nn.BatchNorm2d(64),
                nn.ReLU(),
                nn.MaxPool2d(3, 2, 1),
            )
        elif stem == "cifar":
            self.stem = nn.Sequential(
                nn.Conv2d(depth, 64, 3, 1, 1, bias=False), nn.BatchNorm2d(64), nn.ReLU()
            )
        else:
            raise ModelError(f"stem={stem!r} is unknown; choose standard or cifar")
        if depth % len(mean) or len(mean) != len(std) or min(std) <= 0:
            raise ModelError(
                f"mean and std need one positive entry per channel: {depth} channels, {mean}, {std}"
            )
        widths = [(64, 64, 1), (64, 128, 2), (128, 256, 2), (256, 512, 2)]
        stages = [block for wide, narrow, s in widths for block in ((wide, narrow, s), (narrow, narrow, 1))]
        self.stages = nn.Sequential(*(Residual(*stage) for stage in stages))
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        repeats = depth // len(mean)
        self.register_buffer("shift", 255.0 * torch.tensor(mean).repeat(repeats)[:, None, None])
        self.register_buffer("scale", 1.0 / (255.0 * torch.tensor(std).repeat(repeats)[:, None, None]))
        self.normaliser = build_normaliser(normaliser, self.size)

    def observe(self, obs: Observations) -> None:
        """Do nothing: the pixel statistics are a configured choice."""

    def forward(self, obs: Observations) -> Tensor:
        """Encode: dict of uint8 [B, T, C, Y, X] -> B T 512."""
        images = [obs[key] for key in self.keys]
        x = images[0] if len(images) == 1 else torch.cat(images, -3)
        lead = x.shape[:-3]
        x = (x.flatten(0, -4).float() - self.shift) * self.scale
        features = self.stages(self.stem(x)).mean((-2, -1))
        return self.normaliser(features.unflatten(0, lead))

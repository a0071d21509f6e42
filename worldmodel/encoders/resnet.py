"""The 18-layer residual network of the paper's form, with batch normalisation."""

from collections.abc import Sequence
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..blocks import build_normaliser
from ..errors import ModelError
from .conv import image_keys
from .vectors import Facts, Observations


class ByProducts(torch.autograd.Function):
    """A convolution whose weight gradient is matrix products, one for each row of its kernel."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, stride: int, padding: int) -> Tensor:
        """Convolve: B C Y X, K C k k -> B K Y/s X/s."""
        ctx.save_for_backward(x, weight)
        ctx.stride, ctx.padding = stride, padding
        return F.conv2d(x, weight, None, stride, padding)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, None, None]:
        """Go back: B K Y/s X/s -> B C Y X, K C k k."""
        (x, weight), s, p = ctx.saved_tensors, ctx.stride, ctx.padding
        (above,), (kernel, wide) = gradients, (weight.shape[-1], x.shape[1])
        only_below = [True, False, False]  # torch.nn.grad.conv2d_input would lose the memory format
        below, _, _ = torch.ops.aten.convolution_backward(
            above, x, weight, None, [s, s], [p, p], [1, 1], False, [0, 0], 1, only_below
        )
        above = above.permute(0, 2, 3, 1)
        high, long = (s * (size - 1) + 1 for size in above.shape[1:3])
        rows = above.reshape(-1, above.shape[-1]).t()
        seen = F.pad(x.permute(0, 2, 3, 1), (0, 0, p, p, p, p))
        slope = []
        for i in range(kernel):
            taps = [seen[:, i : i + high : s, j : j + long : s] for j in range(kernel)]
            slope.append(rows @ torch.cat(taps, -1).view(-1, kernel * wide))
        return below, torch.stack(slope, 1).unflatten(-1, (kernel, wide)).permute(0, 3, 1, 2), None, None


class Convolution(nn.Conv2d):
    """A convolution without bias that a CPU learns faster where it is wide: B C Y X -> B K Y/s X/s.

    Up to rounding it is its parent. oneDNN takes 1.2 to 2.3 times as long as matrix products for the weight
    gradients of many channels, and four times as long for a whole kernel on a map that is mostly padding.
    """

    # Channels, pixels on a side, and pictures: with fewer pictures, laying out the weights costs too much.
    wide, tiny, many = 256, 2, 64

    def forward(self, input: Tensor) -> Tensor:
        """Convolve: B C Y X -> B K Y/s X/s."""
        plain = input.device.type != "cpu" or input.dtype != torch.float32 or torch.is_autocast_enabled("cpu")
        if plain or self.out_channels < self.wide:
            return super().forward(input)
        if self.kernel_size == (3, 3) and max(input.shape[-2:]) <= self.tiny and input.shape[0] >= self.many:
            return self._as_layer(input)
        if torch.is_grad_enabled() and self.weight.requires_grad and input.requires_grad:
            return cast(Tensor, ByProducts.apply(input, self.weight, self.stride[0], self.padding[0]))
        return super().forward(input)

    def _as_layer(self, x: Tensor) -> Tensor:
        """Connect all pixels, at most 2 x 2, with all outputs: B C Y X -> B K Y/s X/s."""
        stride, (high, long) = self.stride[0], x.shape[-2:]
        ys, zs = range(0, high, stride), range(0, long, stride)
        # The tap of a 3 x 3 kernel that leads from a pixel to an output; so near, there always is one.
        steps = [(i - y, j - z) for y in ys for z in zs for i in range(high) for j in range(long)]
        taps = torch.tensor([3 * (down + 1) + right + 1 for down, right in steps])
        kernels = self.weight.permute(0, 2, 3, 1).flatten(1, 2)
        rows = kernels.index_select(1, taps).view(-1, high * long * x.shape[1])
        y = F.linear(x.permute(0, 2, 3, 1).flatten(1), rows).view(len(x), -1, len(ys), len(zs))
        return y.contiguous(memory_format=torch.channels_last)


class Residual(nn.Module):
    """Two 3x3 convolutions and a shortcut: B C Y X -> B K Y/s X/s."""

    def __init__(self, wide: int, narrow: int, stride: int) -> None:
        super().__init__()
        self.conv1 = Convolution(wide, narrow, 3, stride, 1, bias=False)
        self.norm1 = nn.BatchNorm2d(narrow)
        self.conv2 = Convolution(narrow, narrow, 3, 1, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(narrow)
        # A block that starts as the identity trains better from scratch; the paper's code does the same.
        nn.init.zeros_(self.norm2.weight)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or wide != narrow:
            self.shortcut = nn.Sequential(
                Convolution(wide, narrow, 1, stride, bias=False), nn.BatchNorm2d(narrow)
            )

    def forward(self, x: Tensor) -> Tensor:
        """Apply the block: B C Y X -> B K Y/s X/s."""
        # In place, where nothing else needs the values: fresh memory costs more than the arithmetic.
        y = F.relu(self.norm1(self.conv1(x)), inplace=True)
        return F.relu(self.norm2(self.conv2(y)) + self.shortcut(x), inplace=True)


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
                nn.ReLU(inplace=True),
                nn.MaxPool2d(3, 2, 1),
            )
        elif stem == "cifar":
            self.stem = nn.Sequential(
                nn.Conv2d(depth, 64, 3, 1, 1, bias=False), nn.BatchNorm2d(64), nn.ReLU(inplace=True)
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
        # Channels last: a quarter less time for a whole step on a CPU.
        x = x.flatten(0, -4).float().contiguous(memory_format=torch.channels_last)
        x = (x - self.shift) * self.scale
        features = self.stages(self.stem(x)).mean((-2, -1))
        return self.normaliser(features.unflatten(0, lead))

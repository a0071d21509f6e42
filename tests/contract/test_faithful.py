"""The published form's training step is the one that plain PyTorch takes, however it is made fast."""

import pytest
import torch
from torch import nn

from tests.benchmarks.faithful import differences
from worldmodel.encoders.resnet import Convolution


# At 32 and 64 pixels the last maps are 1 x 1 and 2 x 2, the ones that are computed in a way of their own. Few
# sequences, because a rounded value that crosses a kink of ReLU is a true difference, and many values do.
@pytest.mark.parametrize("size", [32, 64])
def test_same_loss_gradients_and_target_as_the_plain_step(size, monkeypatch):
    monkeypatch.setattr(Convolution, "many", 8)
    found = differences(8, size)
    assert {"loss", "token", "predictor.head.weight", "target.stem.0.weight"} < set(found)
    wrong = {name: value for name, value in found.items() if not value < 1e-4}
    assert not wrong


@pytest.mark.parametrize("rows", [3, 64])
@pytest.mark.parametrize("kernel", [1, 3])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("shape", [(1, 1), (1, 2), (2, 2), (4, 3), (5, 5)])
def test_a_wide_convolution_is_a_convolution(rows, kernel, stride, shape):
    ours = Convolution(8, 256, kernel, stride, kernel // 2, bias=False)
    theirs = nn.Conv2d(8, 256, kernel, stride, kernel // 2, bias=False)
    theirs.load_state_dict(ours.state_dict())
    x = torch.randn(rows, 8, *shape).contiguous(memory_format=torch.channels_last).requires_grad_()
    results = []
    for layer in (ours, theirs):
        y = layer(x)
        slope = torch.randn(y.shape, generator=torch.Generator().manual_seed(1))
        results.append((y, *torch.autograd.grad(y, [x, layer.weight], slope)))
    for mine, true in zip(*results, strict=True):
        torch.testing.assert_close(mine, true, rtol=1e-4, atol=1e-4)

"""In which number format the update multiplies matrices: what is faster here, measured before training."""

import torch
from torch import nn

from agents.floor import interleaved_ms

# bfloat16 has three digits, and equal runs must choose alike on a busy machine: it has to be clearly faster,
# for networks so large that the time of a layer is not noise.
WORTH, WIDTH = 1.5, 256
# How much of a gradient may differ between two correct programs.
ROUNDING = {"float32": 0.01, "bfloat16": 0.2}


def choose_precision(rows: int, width: int, device: torch.device) -> str:
    """bfloat16 if a critic-sized network learns clearly faster in it here, else float32."""
    if width < WIDTH or (device.type == "cuda" and not torch.cuda.is_bf16_supported()):
        return "float32"
    # No larger than shows the difference: without instructions for it, bfloat16 is twelve times slower.
    plain, short = measured_ms(max(min(rows, 256), 64), min(width, 512), device)
    return "bfloat16" if plain > WORTH * short else "float32"


def measured_ms(rows: int, width: int, device: torch.device) -> tuple[float, float]:
    """Milliseconds of a network's forward and backward pass in float32 and in bfloat16, taking turns."""
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        network = nn.Sequential(*[nn.Linear(width, width) for _ in range(3)]).to(device)
        x = torch.randn(rows, width, device=device)

    def learn(*, short: bool) -> None:
        with torch.autocast(device.type, torch.bfloat16, enabled=short):
            loss = network(x).float().square().mean()
        torch.autograd.grad(loss, list(network.parameters()))

    for short in (False, True):
        learn(short=short)  # libraries choose their kernels on the first call
    return interleaved_ms(lambda: learn(short=False), lambda: learn(short=True), rounds=3, device=device)

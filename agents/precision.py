"""In which number format the update multiplies matrices: what is faster here, measured before training."""

import torch
from torch import nn

from agents.floor import median_ms

# bfloat16 has three digits: it has to be clearly faster, for networks so large that time is not noise.
WORTH, WIDTH = 1.3, 256
# Equal runs must choose alike on a busy machine. Beside two trainings, ratios of the fastest of 9 rounds were
# 1.55 to 1.65 in 12 trials, those of medians 1.2 to 2.9.
ROUNDS = 9
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
    """Milliseconds of a network's forward and backward pass in both formats: the fastest of some rounds."""
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        network = nn.Sequential(*[nn.Linear(width, width) for _ in range(3)]).to(device)
        x = torch.randn(rows, width, device=device)

    def learn(*, short: bool) -> None:
        with torch.autocast(device.type, torch.bfloat16, enabled=short):
            loss = network(x).float().square().mean()
        torch.autograd.grad(loss, list(network.parameters()))

    times: dict[bool, list[float]] = {False: [], True: []}
    for _ in range(ROUNDS):
        for short, spent in times.items():
            spent.append(median_ms(lambda short=short: learn(short=short), repeats=1, device=device))
    return min(times[False]), min(times[True])

"""What of an observation a latent hangs on: parts of it taken from another moment, encoded and compared."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from agents.answers import Answer
from envs import Spec
from worldmodel import WorldModel

CHUNK = 1024


class Part(NamedTuple):
    """Some entries of one observation that is a vector."""

    name: str
    key: str
    entries: slice


def parts_of(spec: Spec) -> list[Part]:
    """Name the parts of all vectors that are observed: their own names, or that of the whole vector."""
    found = []
    for key, array in spec.observation.items():
        if array.dtype == "uint8":
            continue
        size = array.shape[-1] if array.shape else 1
        parts = array.parts or {key: (0, size)}
        found += [Part(name, key, slice(*ends)) for name, ends in parts.items()]
    return found


def share(model: WorldModel, obs: dict[str, Tensor], parts: Sequence[Part], *, seed: int = 0) -> float:
    """How much of the latents' variance moves when parts come from another row: 0 none, 1 all of it.

    dict of [M, ...] -> the squared change over twice the variance, which is what two rows differ by.
    """
    count = len(next(iter(obs.values())))
    order = torch.randperm(count, generator=torch.Generator().manual_seed(seed))
    swapped = {key: value.clone() for key, value in obs.items()}
    for part in parts:
        rows, others = swapped[part.key].view(count, -1), obs[part.key][order].reshape(count, -1)
        rows[:, part.entries] = others[:, part.entries]
    z, moved = encode(model, obs), encode(model, swapped)
    spread = z.var(0, unbiased=False).sum()
    return float((moved - z).square().sum(1).mean() / (2 * spread).clamp_min(1e-12))


@torch.no_grad()
def encode(model: WorldModel, obs: dict[str, Tensor]) -> Tensor:
    """Latents of single rows: dict of [M, ...] -> M D, in float64 on the CPU."""
    device = next(model.parameters()).device
    count = len(next(iter(obs.values())))
    chunks = []
    for start in range(0, count, CHUNK):
        rows = {key: value[start : start + CHUNK, None].to(device) for key, value in obs.items()}
        chunks.append(model.encode(rows)[:, 0].double().cpu())
    return torch.cat(chunks)


def dependences(
    ours: WorldModel, floor: WorldModel, obs: dict[str, Tensor], parts: list[Part], *, seed: int
) -> Iterator[Answer]:
    """What latents hang on, part by part; no answers where there is one part alone: dict of [M, ...]."""
    if len(parts) < 2:
        return
    for part in parts:
        for role, source, model in (("ours", "latent", ours), ("floor", "latent, untrained", floor)):
            value = share(model, obs, [part], seed=seed)
            yield Answer("dependence", part.name, source, role, "none", 0, "share", value)

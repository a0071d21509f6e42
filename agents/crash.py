"""An update that went wrong, kept whole: the weights before it, its batch and its noise, to be seen again.

On a CPU an update looks at its loss and gradients before it takes its step, so the weights are still good.
On a GPU nothing waits for a number: the update after the bad one notices (see `loop.Averages`), and there is
no bundle, but a checkpoint is never written from weights that are not finite.
"""

import math
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from agents import checkpoint
from agents.cli import UserError

FOLDER = "crash"
WATCHED = ("loss/", "grad/", "value/")
SMALLER = "try smaller agent.model_lr and agent.critic_lr, and rewards of ordinary size, with run.fresh=true"


class NotFinite(Exception):
    """An update whose loss or gradient is not a number, or infinite; it has not been taken."""

    def __init__(self, batch: dict[str, Tensor], noise: Tensor, numbers: dict[str, float]) -> None:
        self.batch, self.noise, self.numbers = batch, noise, numbers
        super().__init__(say(numbers))


def say(numbers: Mapping[str, float]) -> str:
    """Name the numbers that are not finite, in a sentence."""
    names = odd(numbers)
    return f"{', '.join(names)} {'is' if len(names) == 1 else 'are'} not finite"


def odd(numbers: Mapping[str, float]) -> list[str]:
    """Name the losses, gradients and values that are not finite; the rank of what has collapsed may be."""
    return [name for name, value in numbers.items() if name.startswith(WATCHED) and not math.isfinite(value)]


def all_finite(tensors: Iterable[Tensor]) -> bool:
    """Whether every number of all floating-point tensors is finite."""
    real = [tensor for tensor in tensors if tensor.is_floating_point()]
    return bool(torch.stack([tensor.isfinite().all() for tensor in real]).all()) if real else True


def check_weights(weights: Mapping[str, Tensor], last_good: Path, fix: str = SMALLER) -> None:
    """Refuse to go on, and so to save, with weights that are not finite."""
    for name, value in weights.items():
        if not all_finite([value]):
            text = f"the weights are not finite any more ({name}), and were not saved; {last_good} is good"
            raise UserError(text, fix)


def diverged(names: list[str], update: int) -> UserError:
    """What to tell the user when the numbers are seen only after the step."""
    text = f"{', '.join(names)} not finite by update {update:,}; nothing since the last checkpoint was saved"
    return UserError(text, f"the same command with device=cpu keeps the update that begins it; {SMALLER}")


def write(
    run: Path, agent: Any, error: NotFinite, state: dict[str, Any], documents: dict[str, Any]
) -> UserError:
    """Keep everything about a failed update under the run; -> what to tell the user."""
    counters = state["progress"]["counters"]
    numbers = {name: repr(value) for name, value in error.numbers.items()}  # JSON knows no NaN
    path = checkpoint.save(
        run / FOLDER,
        counters["frames"],
        {"weights": agent.weights(), "update": error.batch | {"noise": error.noise}},
        {"state": state | {"numbers": numbers, "precision": agent.precision}, **documents},
    )
    return UserError(
        f"update {counters['updates'] + 1:,}, at {counters['frames']:,} frames, was not taken: {error}; the "
        f"weights before it and its batch are in {path}",
        f"python -m agents.reproduce run={path} shows where it begins; {SMALLER}",
    )


@contextmanager
def odd_outputs(modules: Mapping[str, nn.Module]) -> Iterator[list[str]]:
    """Collect the names of modules whose output is not finite, in the order in which they are called."""
    seen: list[str] = []

    def watch(name: str) -> Any:
        def look(_: nn.Module, __: Any, output: Any) -> None:
            if not all_finite(leaf for leaf in pytree.tree_leaves(output) if isinstance(leaf, Tensor)):
                seen.append(name)

        return look

    handles = [
        part.register_forward_hook(watch(f"{owner}.{name}" if name else owner))
        for owner, module in modules.items()
        for name, part in module.named_modules()
    ]
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()

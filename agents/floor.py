"""The floor of a computation: the time its matrix products and convolutions alone would take."""

import time
from collections.abc import Callable
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

PRODUCTS = {
    torch.ops.aten.mm.default,
    torch.ops.aten.addmm.default,
    torch.ops.aten.bmm.default,
    torch.ops.aten.baddbmm.default,
    torch.ops.aten.convolution.default,
    torch.ops.aten.convolution_backward.default,
}


class Products(TorchDispatchMode):
    """Records every matrix product that runs inside it, with arguments of its own of the same layout."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[Any, tuple, dict]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        """Run the operation, and remember it if it is a product."""
        if func in PRODUCTS:
            own = tuple(
                a.detach().clone(memory_format=torch.preserve_format) if torch.is_tensor(a) else a
                for a in args
            )
            self.calls.append((func, own, dict(kwargs or {})))
        return func(*args, **(kwargs or {}))

    def replay(self) -> None:
        """Run the recorded products again, and nothing else."""
        for func, args, kwargs in self.calls:
            func(*args, **kwargs)


def median_ms(work: Callable[[], Any], *, repeats: int, device: torch.device) -> float:
    """Median wall time of one call, in milliseconds; waits for the GPU where there is one."""
    times = []
    for _ in range(repeats):
        _wait(device)
        start = time.perf_counter()
        work()
        _wait(device)
        times.append(time.perf_counter() - start)
    return sorted(times)[len(times) // 2] * 1e3


def interleaved_ms(
    first: Callable[[], Any], second: Callable[[], Any], *, rounds: int, device: torch.device
) -> tuple:
    """Median times of two pieces of work that take turns, so that a busy machine slows both alike."""
    pairs = [
        (median_ms(first, repeats=1, device=device), median_ms(second, repeats=1, device=device))
        for _ in range(rounds)
    ]
    return tuple(sorted(column)[rounds // 2] for column in zip(*pairs, strict=True))


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)

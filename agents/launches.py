"""How a GPU spends its time: what a profile says about launches and pauses."""

import time
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import torch
from torch.autograd import DeviceType  # pyright: ignore[reportPrivateImportUsage]

# The driver's names for handing work to a GPU; Triton's kernels come through `cu`, the others through `cuda`.
LAUNCHES = ("cudaLaunch", "cuLaunch", "cudaGraphLaunch", "cudaMemcpy", "cudaMemset")


class Use(NamedTuple):
    """What one step asks of a GPU."""

    launches: float
    busy: float  # share of the time in which a kernel runs


def count_launches(events: Iterable[Any]) -> int:
    """Count what was handed to the GPU, a replayed graph being one."""
    return sum(e.device_type == DeviceType.CPU and e.name.startswith(LAUNCHES) for e in events)


def working_us(events: Iterable[Any]) -> float:
    """Microseconds in which at least one kernel or copy ran."""
    spans = sorted(
        (e.time_range.start, e.time_range.end)
        for e in events
        if e.device_type == DeviceType.CUDA and not e.is_user_annotation
    )
    total, reached = 0.0, float("-inf")
    for start, end in spans:  # kernels of one graph may overlap
        total += max(end - max(start, reached), 0.0)
        reached = max(reached, end)
    return total


def use(step: Callable[[], Any], device: torch.device, *, count: int = 50) -> Use:
    """Measure steps one after another on a GPU, as training takes them."""
    from torch.profiler import ProfilerActivity, profile

    def work() -> float:
        torch.cuda.synchronize(device)
        start = time.perf_counter()
        for _ in range(count):
            step()
        torch.cuda.synchronize(device)
        return time.perf_counter() - start

    work()
    wall_us = work() * 1e6  # without the profiler, which slows the CPU more than the GPU
    with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as record:
        work()
    events = record.events() or []
    return Use(count_launches(events) / count, working_us(events) / wall_us)

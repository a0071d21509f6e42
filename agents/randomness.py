"""The process's global random states: seeded once, saved with a checkpoint, shielded from evaluation."""

import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch


def seed_everything(seed: int) -> None:
    """Seed Python, numpy and torch; call it before anything is built."""
    random.seed(seed)
    np.random.seed(seed % 2**32)  # noqa: NPY002 - user environments may draw from the global generator
    torch.manual_seed(seed)


def state() -> dict[str, Any]:
    """Return every global generator's state as tensors and plain values."""
    version, words, gauss = random.getstate()
    name, keys, position, has_gauss, cached = np.random.get_state(legacy=True)  # noqa: NPY002
    found = {
        "python": [version, list(words), gauss],
        "numpy": [
            name,
            torch.from_numpy(np.asarray(keys, dtype=np.int64)),
            int(position),
            int(has_gauss),
            cached,
        ],
        "torch": torch.get_rng_state(),
    }
    if torch.cuda.is_available():
        found["cuda"] = torch.cuda.get_rng_state()
    return found


def restore(saved: dict[str, Any]) -> None:
    """Set every global generator to what `state` returned."""
    version, words, gauss = saved["python"]
    random.setstate((version, tuple(words), gauss))
    name, keys, position, has_gauss, cached = saved["numpy"]
    np.random.set_state((name, keys.numpy().astype(np.uint32), position, has_gauss, cached))  # noqa: NPY002
    torch.set_rng_state(saved["torch"])
    if "cuda" in saved and torch.cuda.is_available():
        torch.cuda.set_rng_state(saved["cuda"])


@contextmanager
def undisturbed() -> Iterator[None]:
    """Put every global generator back afterwards: what happens inside leaves no trace in training."""
    before = state()
    try:
        yield
    finally:
        restore(before)

"""Pictures on disk: made once, object by object; what was killed half way goes on where it stopped."""

import hashlib
import json
import os
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from envs.pictures.objects import LATENTS, Scene, asymmetric, draw_view, instance
from envs.spec import EnvError

FLUSH = 32  # objects between two writes that survive a crash
TRIES = 20  # objects drawn until one has no symmetry


@dataclass(frozen=True)
class ObjectSet:
    """Which objects are drawn, how often and from where; equal ones make equal pictures."""

    classes: int = 10
    train: int = 120  # objects per class
    val: int = 30
    views: int = 24
    size: int = 48  # pixels
    angles: tuple[float, float, float] = (90.0, 90.0, 90.0)  # largest turns about X, Y and Z, in degrees
    seed: int = 0

    @property
    def objects(self) -> int:
        """How many there are."""
        return self.classes * (self.train + self.val)


# Sizes for a test, a processor and a GPU.
TIERS = {
    "t0": ObjectSet(classes=5, train=40, val=10, views=12, size=32, angles=(0.0, 0.0, 90.0)),
    "t1": ObjectSet(),
    "t2": ObjectSet(classes=20, train=250, val=50, views=30, size=64),
    "t3": ObjectSet(classes=40, train=500, val=100, views=40, size=64),
}


@dataclass(frozen=True)
class Pictures:
    """A finished store, mapped into memory: O objects with V views each."""

    images: np.ndarray  # O V size size 3, uint8
    latents: np.ndarray  # O V 8, named by LATENTS
    labels: np.ndarray  # O, the family
    held_out: np.ndarray  # O, whether the object is for validation


def make_pictures(
    root: Path, wanted: ObjectSet, tell: Callable[[str, int], None] = lambda *_: None
) -> Pictures:
    """Open the store of an object set below `root`, drawing what is not there yet."""
    folder = Path(root) / f"objects-{_digest(wanted)}"
    folder.mkdir(parents=True, exist_ok=True)
    _describe(folder / "set.json", wanted)
    arrays: dict[str, np.memmap] = {
        name: _open(folder / f"{name}.npy", *shape) for name, shape in _shapes(wanted).items()
    }
    missing = np.flatnonzero(arrays["done"] == 0)
    if len(missing):
        scene = Scene()
        for count, number in enumerate(missing, start=1):
            _draw(scene, wanted, int(number), arrays)
            tell("objects drawn", wanted.objects - len(missing) + count)
            if count % FLUSH == 0 or count == len(missing):
                # Pictures first: what is marked as done must be on the disk whatever happens next.
                for name in ("images", "latents"):
                    arrays[name].flush()
                arrays["done"][missing[count - 1 - (count - 1) % FLUSH : count]] = 1
                arrays["done"].flush()
    labels, place = np.divmod(np.arange(wanted.objects), wanted.train + wanted.val)
    return Pictures(arrays["images"], arrays["latents"], labels, place >= wanted.train)


def _draw(scene: Scene, wanted: ObjectSet, number: int, arrays: dict[str, np.memmap]) -> None:
    """Draw every view of an object, a function of the set and the number alone."""
    label, place = divmod(number, wanted.train + wanted.val)
    for attempt in range(TRIES):
        parts = instance(label, wanted.seed * 1_000_000 + place + 100_000 * attempt)
        if asymmetric(scene, parts):
            break
    else:
        raise EnvError(f"family {label}: no object without symmetry in {TRIES} tries; use fewer classes")
    random = np.random.default_rng((7_003, wanted.seed, number))
    x, y, z = np.radians(wanted.angles)
    scene.show(parts)
    for view in range(wanted.views):
        chosen = draw_view(random, (x, y, z))
        arrays["images"][number, view] = scene.draw(chosen, wanted.size, finer=2 if wanted.size < 64 else 1)
        arrays["latents"][number, view] = chosen.vector()


def _shapes(wanted: ObjectSet) -> dict[str, tuple[tuple[int, ...], str]]:
    rows = (wanted.objects, wanted.views)
    return {
        "images": ((*rows, wanted.size, wanted.size, 3), "uint8"),
        "latents": ((*rows, len(LATENTS)), "float32"),
        "done": ((wanted.objects,), "uint8"),
    }


def _open(path: Path, shape: tuple[int, ...], dtype: str) -> np.memmap:
    """Map an array; one that is not there appears under its name only when it has its whole size."""
    if not path.exists():
        fresh = path.with_suffix(f".{os.getpid()}.new")
        array = np.lib.format.open_memmap(fresh, mode="w+", dtype=dtype, shape=shape)
        # Blocks are taken now, so that a full disk is an error here and not a crash while drawing.
        with open(fresh, "r+b") as file:
            os.posix_fallocate(file.fileno(), 0, fresh.stat().st_size)
        del array
        os.replace(fresh, path)
    try:
        array = np.lib.format.open_memmap(path, mode="r+")
    except ValueError as error:
        raise EnvError(f"{path} is damaged ({error}); delete its folder to draw it anew") from error
    if array.shape != shape or array.dtype != dtype:
        raise EnvError(f"{path} has another shape than its set; delete its folder to draw it anew")
    return array


def _describe(path: Path, wanted: ObjectSet) -> None:
    """Write what the folder holds, for people and for other versions of this code."""
    facts: dict[str, Any] = asdict(wanted) | {"angles": list(wanted.angles)}
    if not path.exists():
        path.write_text(json.dumps(facts, indent=1))


def _digest(wanted: ObjectSet) -> str:
    return hashlib.sha256(json.dumps(asdict(wanted), sort_keys=True).encode()).hexdigest()[:12]

"""Pictures on disk: made once, object by object; what was killed half way goes on where it stopped."""

import hashlib
import json
import os
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from envs.pictures.objects import LATENTS, Scene, View, asymmetric, draw_view, instance
from envs.spec import EnvError

FLUSH = 32  # objects between two writes that survive a crash
BEYOND = 6  # views of an object turned farther than in its set
TRIES = 20  # objects drawn until one has no symmetry

Draw = Callable[[int], dict[str, np.ndarray]]  # an item's row of each array, from its number alone


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


# Sizes for a test, a processor and two for a GPU. The first two turn about one axis: three are learned from
# more pictures than a processor can look at.
TIERS = {
    "t0": ObjectSet(classes=5, train=40, val=10, views=12, size=32, angles=(0.0, 0.0, 90.0)),
    "t1": ObjectSet(classes=5, train=100, val=25, views=24, size=32, angles=(0.0, 0.0, 90.0)),
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
    shapes = _shapes(wanted.objects, wanted.views, wanted.size)
    found = fill(root, "objects", asdict(wanted), shapes, lambda: partial(_draw, Scene(), wanted), tell)
    labels, held_out = split(wanted.classes, wanted.train, wanted.val)
    return Pictures(found["images"], found["latents"], labels, held_out)


def make_beyond(
    root: Path, wanted: ObjectSet, tell: Callable[[str, int], None] = lambda *_: None
) -> Pictures:
    """The held-out objects of a set again, in a few views turned farther than any of the set's own."""
    labels, _ = split(wanted.classes, 0, wanted.val)
    shapes = _shapes(len(labels), BEYOND, wanted.size)
    # What three axes have "beyond" was made otherwise once.
    facts = asdict(wanted) | {"beyond": BEYOND} | ({"about_y": "within"} if all(wanted.angles) else {})
    found = fill(root, "objects", facts, shapes, lambda: partial(_draw_beyond, Scene(), wanted), tell)
    return Pictures(found["images"], found["latents"], labels, np.ones(len(labels), bool))


def _shapes(objects: int, views: int, size: int) -> dict[str, tuple[tuple[int, ...], str]]:
    rows = (objects, views)
    return {"images": ((*rows, size, size, 3), "uint8"), "latents": ((*rows, len(LATENTS)), "float32")}


def _draw(scene: Scene, wanted: ObjectSet, number: int) -> dict[str, np.ndarray]:
    """Draw every view of an object, a function of the set and the number alone."""
    label, place = divmod(number, wanted.train + wanted.val)
    _show(scene, wanted, label, place)
    random = np.random.default_rng((7_003, wanted.seed, number))
    x, y, z = np.radians(wanted.angles)
    return _shoot(scene, wanted, [draw_view(random, (x, y, z)) for _ in range(wanted.views)])


def _draw_beyond(scene: Scene, wanted: ObjectSet, number: int) -> dict[str, np.ndarray]:
    """Draw a held-out object turned by more than the set's angles about each axis that turns.

    Where all three do, about Y it stays within: turned too far about each, an object may as well have been
    turned a little about all, R(x, y, z) = R(x + 180, 180 - y, z + 180).
    """
    label, place = divmod(number, wanted.val)
    _show(scene, wanted, label, wanted.train + place)
    random = np.random.default_rng((7_005, wanted.seed, number))
    x, y, z = np.radians(wanted.angles)
    a, b, c = (np.pi if angle else 0.0 for angle in wanted.angles)
    if all(wanted.angles):
        b, y = y, 0.0
    views = [draw_view(random, (a, b, c), least=(x, y, z)) for _ in range(BEYOND)]
    return _shoot(scene, wanted, views)


def _show(scene: Scene, wanted: ObjectSet, label: int, place: int) -> None:
    """Put an object under the camera: the first of its tries that has no symmetry."""
    for attempt in range(TRIES):
        parts = instance(label, wanted.seed * 1_000_000 + place + 100_000 * attempt)
        if asymmetric(scene, parts):
            return scene.show(parts)
    raise EnvError(f"family {label}: no object without symmetry in {TRIES} tries; use fewer classes")


def _shoot(scene: Scene, wanted: ObjectSet, views: list[View]) -> dict[str, np.ndarray]:
    images = [scene.draw(view, wanted.size, finer=2 if wanted.size < 64 else 1) for view in views]
    return {"images": np.stack(images), "latents": np.stack([view.vector() for view in views])}


# ---- what every store of pictures is made with


def fill(
    root: Path,
    what: str,
    facts: dict[str, Any],
    shapes: dict[str, tuple[tuple[int, ...], str]],
    start: Callable[[], Draw],
    tell: Callable[[str, int], None],
) -> dict[str, np.memmap]:
    """Map the arrays of a set, N items each, drawing those that are not there yet: N ..., as in `shapes`."""
    folder = Path(root) / f"{what}-{_digest(facts)}"
    folder.mkdir(parents=True, exist_ok=True)
    _describe(folder / "set.json", facts)
    arrays = {name: _open(folder / f"{name}.npy", *shape) for name, shape in shapes.items()}
    total = len(next(iter(arrays.values())))
    done = _open(folder / "done.npy", (total,), "uint8")
    missing = np.flatnonzero(done == 0)
    if not len(missing):
        return arrays
    draw = start()  # only now: a machine that has no GL can use what is complete
    for first in range(0, len(missing), FLUSH):
        group = missing[first : first + FLUSH]
        for count, number in enumerate(group, start=total - len(missing) + first + 1):
            for name, row in draw(int(number)).items():
                arrays[name][number] = row
            tell(f"{what} drawn", count)
        # Pictures first: what is marked as done must be on the disk whatever happens next.
        for array in arrays.values():
            array.flush()
        done[group] = 1
        done.flush()
    return arrays


def split(classes: int, train: int, val: int) -> tuple[np.ndarray, np.ndarray]:
    """The class of each object, class by class, and whether it is held out, the last of each are: O, O."""
    labels, place = np.divmod(np.arange(classes * (train + val)), train + val)
    return labels, place >= train


def _open(path: Path, shape: tuple[int, ...], dtype: str) -> np.memmap:
    """Map an array; one that is not there appears under its name only when it has its whole size."""
    if not path.exists():
        _create(path, shape, dtype)
    try:
        array = np.lib.format.open_memmap(path, mode="r+")
    except ValueError as error:
        raise EnvError(f"{path} is damaged ({error}); delete its folder to draw it anew") from error
    if array.shape != shape or array.dtype != dtype:
        raise EnvError(f"{path} has another shape than its set; delete its folder to draw it anew")
    return array


def _create(path: Path, shape: tuple[int, ...], dtype: str) -> None:
    fresh = path.with_suffix(f".{os.getpid()}.new")
    try:
        np.lib.format.open_memmap(fresh, mode="w+", dtype=dtype, shape=shape)
        # Blocks are taken now, so that a full disk is an error here and not a crash while drawing.
        with open(fresh, "r+b") as file:
            os.posix_fallocate(file.fileno(), 0, fresh.stat().st_size)
        os.replace(fresh, path)
    except OSError as error:
        fresh.unlink(missing_ok=True)
        size = int(np.prod(shape)) * np.dtype(dtype).itemsize / 2**20
        raise EnvError(f"cannot make {path} of {size:.0f} MiB ({error}); choose a smaller set") from error


def _describe(path: Path, facts: dict[str, Any]) -> None:
    """Write what the folder holds, for people and for other versions of this code."""
    if not path.exists():
        path.write_text(json.dumps(facts, indent=1))


def _digest(facts: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:12]

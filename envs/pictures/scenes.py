"""Pictures to look around in: a large object on a lit floor among bystanders, and where the eye is drawn to.

A stand-in for natural pictures with a map of saliency. The class is the object's family, of which a glance
shows a part; the light on the floor, its pattern and the perspective tell a glance where it fell.
"""

from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from functools import lru_cache, partial
from pathlib import Path

import numpy as np

from envs.pictures.objects import Scene, about, colour, draw_view, instance
from envs.pictures.store import fill, split

ANGLES = (40.0, 40.0, 40.0)  # largest turns about X, Y and Z, in degrees
LARGER = 1.25  # than the objects of the store of objects: parts of it come near the frame
BYSTANDERS = 2  # at most
FLOOR = -0.99  # its height, just above that of the plain one

# A floor in many pieces, as light is worked out at their corners only.
_MORE = """
<visual><quality numquads="40"/></visual>
<asset>
  <texture name="ground" type="2d" builtin="flat" rgb1="1 1 1" width="128" height="128"/>
  <material name="ground" texture="ground" specular="0"/>
</asset>
<worldbody>
  <geom name="ground" type="plane" pos="0 -1 {floor}" size="6 6 1" material="ground" contype="0"
        conaffinity="0"/>
  {bystanders}
</worldbody>
"""
_BYSTANDER = '<geom name="bystander{}" type="box" size=".1 .1 .1" contype="0" conaffinity="0"/>'


@dataclass(frozen=True)
class SceneSet:
    """Which scenes are drawn; equal ones make equal pictures."""

    classes: int = 10
    train: int = 240  # objects per class
    val: int = 60
    views: int = 1  # scenes with the same object
    size: int = 96  # pixels
    seed: int = 0

    @property
    def scenes(self) -> int:
        """How many there are."""
        return self.classes * (self.train + self.val) * self.views


# Sizes for a test, a processor and a GPU.
SCENE_TIERS = {
    "t0": SceneSet(classes=5, train=60, val=20),
    "t1": SceneSet(),
    "t2": SceneSet(classes=20, train=500, val=100),
}


@dataclass(frozen=True)
class Scenes:
    """A finished store, mapped into memory: N scenes."""

    images: np.ndarray  # N size size 3, uint8
    saliency: np.ndarray  # N size size, float16; sums to 1 up to rounding
    labels: np.ndarray  # N, the family
    held_out: np.ndarray  # N, whether the object is for validation


def make_scenes(root: Path, wanted: SceneSet, tell: Callable[[str, int], None] = lambda *_: None) -> Scenes:
    """Open the store of a set of scenes below `root`, drawing what is not there yet."""
    place = (wanted.scenes, wanted.size, wanted.size)
    # Two bytes are enough for a map: halves are exact to 1e-3 around its mean of 1e-4.
    shapes = {"images": ((*place, 3), "uint8"), "saliency": (place, "float16")}
    found = fill(root, "scenes", asdict(wanted), shapes, lambda: partial(_draw, Stage(), wanted), tell)
    labels, held_out = split(wanted.classes, wanted.train, wanted.val)
    return Scenes(
        found["images"], found["saliency"], labels.repeat(wanted.views), held_out.repeat(wanted.views)
    )


def _draw(stage: "Stage", wanted: SceneSet, number: int) -> dict[str, np.ndarray]:
    """Draw a scene, a function of the set and the number alone."""
    label, place = divmod(number // wanted.views, wanted.train + wanted.val)
    random = np.random.default_rng((7_004, wanted.seed, number))
    parts = instance(label, wanted.seed * 1_000_000 + place)
    stage.show([replace(part, size=part.size * LARGER, place=part.place * LARGER) for part in parts])
    stage.surround(random)
    x, y, z = np.radians(ANGLES)
    image = stage.draw(draw_view(random, (x, y, z)), wanted.size, finer=2)
    return {"images": image, "saliency": saliency(image).astype(np.float16)}


class Stage(Scene):
    """The scene of an object with a patterned floor and room for bystanders."""

    def __init__(self) -> None:
        names = [_BYSTANDER.format(i) for i in range(BYSTANDERS)]
        super().__init__(_MORE.format(floor=FLOOR, bystanders="".join(names)), "scenes")
        self.model.tex_data[:] = _pattern(self.model.tex_width[0]).ravel()
        self.floor = self.model.geom("ground").id  # what takes the hue of a view
        self.bystanders = [self.model.geom(f"bystander{i}").id for i in range(BYSTANDERS)]
        self.model.geom_sameframe[[self.floor, *self.bystanders]] = 0  # as of the slots

    def surround(self, random: np.random.Generator) -> None:
        """Move and turn the pattern of the floor and stand up to two primitives near the picture's edge."""
        model = self.model
        model.geom_quat[self.floor] = np.roll(about("z", random.uniform(0, 2 * np.pi)), 1)
        model.geom_pos[self.floor, :2] = random.uniform((-1, -2), (1, 0))
        model.geom_rgba[self.bystanders] = 0.0
        for geom in self.bystanders[: random.integers(BYSTANDERS + 1)]:
            across, up = random.choice((-1, 1)) * random.uniform(0.55, 0.9), random.uniform(-0.85, 0.85)
            place, distance = _on_floor(across, up)
            size = distance * random.uniform(0.025, 0.06, 3)
            paint = colour(random.uniform(), random.uniform(0, 0.4), random.uniform(0.3, 0.8))
            model.geom_type[geom] = self.kinds[random.choice(("box", "ellipsoid", "cylinder"))]
            model.geom_size[geom], model.geom_rbound[geom] = size, 2 * size.max()
            model.geom_pos[geom] = [*place[:2], FLOOR + size[2]]
            model.geom_quat[geom] = np.roll(about("z", random.uniform(0, np.pi)), 1)
            model.geom_rgba[geom] = [*paint, 1.0]


def _on_floor(across: float, up: float) -> tuple[np.ndarray, float]:
    """Where the camera sees the floor at a point of the picture, both from -1 to 1, and how far away."""
    tangent, eye = np.tan(np.radians(20)), np.array([0, 1.77, 1.77])
    ray = np.array(
        [-across * tangent, -np.sqrt(0.5) * (1 + up * tangent), -np.sqrt(0.5) * (1 - up * tangent)]
    )
    reach = (FLOOR - eye[2]) / ray[2]
    return eye + reach * ray, reach * float(np.linalg.norm(ray))


def _pattern(size: int) -> np.ndarray:
    """Broad waves of brightness that do not repeat, the same for every scene: size size 3."""
    random = np.random.default_rng(7_005)
    y, x = np.mgrid[:size, :size] / size
    waves = np.zeros((size, size))
    for _ in range(6):  # from 1.5 to 4 metres long on the floor of 12
        (fx, fy), phase = random.normal(size=2), random.uniform(0, 2 * np.pi)
        scale = 2 * np.pi * random.uniform(3, 8) / np.hypot(fx, fy)
        waves += np.sin(scale * (fx * x + fy * y) + phase)
    bright = 0.5 + 0.5 * (waves - waves.min()) / np.ptp(waves)
    return np.repeat((255 * bright).astype(np.uint8)[..., None], 3, -1)


# ---- saliency


def saliency(image: np.ndarray) -> np.ndarray:
    """Where a picture stands out from its surroundings: Y X 3 -> Y X, at least 0, sums to 1.

    At two scales, how far the mean colour of a small neighbourhood is from that of a large one (in
    brightness, red against green and blue against yellow), and how much brightness varies in it; both
    relative to their mean over the picture, smoothed, and drawn a little to the middle.
    """
    red, green, blue = np.moveaxis(image.astype(float) / 255, -1, 0)
    channels = np.stack([(red + green + blue) / 3, (red - green) / 2, (blue - (red + green) / 2) / 2])
    size = max(image.shape[:2])
    total = np.zeros(image.shape[:2])
    for scale in (size / 48, size / 24):
        near, far = _blur(channels, scale), _blur(channels, 5 * scale)
        apart = np.sqrt(((near - far) ** 2).sum(0))
        varied = np.sqrt(np.maximum(_blur(channels[0] ** 2, scale) - near[0] ** 2, 0))
        for part in (apart, varied):
            total += part / (part.mean() + 1e-6)
    total = _blur(total, size / 24) ** 1.5 + 1e-3
    y, x = (np.linspace(-1, 1, length) ** 2 for length in total.shape)
    total *= np.exp(-(y[:, None] + x))
    return total / total.sum()


def _blur(image: np.ndarray, sigma: float) -> np.ndarray:
    """Gaussian means that stop at the edge: ... Y X -> ... Y X."""
    return _means(image.shape[-2], sigma) @ image @ _means(image.shape[-1], sigma).T


@lru_cache(maxsize=32)
def _means(size: int, sigma: float) -> np.ndarray:
    away = np.subtract.outer(np.arange(size), np.arange(size))
    weights = np.exp(-0.5 * (away / sigma) ** 2)
    return weights / weights.sum(1, keepdims=True)

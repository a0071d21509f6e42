"""What changes a picture and not what is true: light, tints and a nudged camera, to draw a state once more.

A simulator that draws may have a method `redraw(nuisance)` that returns the uint8 observations of its
present state as they would look. Nothing else may come of it: what is simulated and seen later stays as it
was, bit for bit.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np

from envs.spec import Simulator

NAMES = (
    *("light_x", "light_y", "light_power", "ambient"),
    *("floor_red", "floor_blue", "body_red", "body_blue"),
    *("camera_pan", "camera_tilt", "camera_roll"),
)
TILT = 40.0  # degrees that lights turn about what they shine on, at most
GAIN = 2.0  # lamps and tints are multiplied or divided by up to this
AMBIENT = 1.5  # and this the light from everywhere, in which pictures are nearly white already
NUDGE = 2.5  # degrees that cameras turn at most: a few pixels of 64


@dataclass(frozen=True)
class Nuisance:
    """One way to look: NAMES as numbers in [0, 1], where 0.5 is as modelled."""

    values: np.ndarray  # P

    @classmethod
    def draw(cls, random: np.random.Generator) -> "Nuisance":
        """Draw every number uniformly and for itself."""
        return cls(random.uniform(0.0, 1.0, len(NAMES)))

    @classmethod
    def neutral(cls) -> "Nuisance":
        """As modelled."""
        return cls(np.full(len(NAMES), 0.5))

    def signed(self) -> dict[str, float]:
        """The numbers by name, moved to [-1, 1]."""
        return dict(zip(NAMES, (2.0 * self.values - 1.0).tolist(), strict=True))


def redraw(simulator: Simulator, nuisance: Nuisance) -> dict[str, np.ndarray]:
    """What would be seen now: -> dict of uint8 C Y X, empty where nothing is seen or it cannot be redrawn."""
    return getattr(simulator, "redraw", lambda _: {})(nuisance)


@contextmanager
def altered(model: Any, data: Any, nuisance: Nuisance) -> Iterator[None]:
    """Let a MuJoCo model and its present look otherwise, then put every number back.

    The sky keeps its colours: it is a texture on the graphics card, where it would have to be replaced.
    """
    head, free = model.vis.headlight, model.vis.global_
    arrays = [model.geom_rgba, model.skin_rgba, model.light_diffuse, head.ambient, head.diffuse]
    arrays += [data.light_xpos, data.light_xdir, data.cam_xmat]
    saved, angles = [array.copy() for array in arrays], (free.azimuth, free.elevation)
    by = nuisance.signed()
    try:
        _light(model, data, by)
        _tint(model, by)
        _nudge(model, data, by)
        yield
    finally:
        for array, was in zip(arrays, saved, strict=True):
            array[...] = was
        free.azimuth, free.elevation = angles


def _light(model: Any, data: Any, by: dict[str, float]) -> None:
    """Turn lights about the place they shine on, and make them and the surroundings brighter or darker."""
    turn = _turn(x=TILT * by["light_x"], y=TILT * by["light_y"])
    for place, direction in zip(data.light_xpos, data.light_xdir, strict=True):
        # Where the axis passes the bodies. A spotlight that turned on the spot would light another place.
        target = place + direction * max(float((data.subtree_com[0] - place) @ direction), 0.0)
        place[:], direction[:] = target + turn @ (place - target), turn @ direction
    model.light_diffuse *= GAIN ** by["light_power"]
    for light in (model.vis.headlight.ambient, model.vis.headlight.diffuse):
        light *= AMBIENT ** by["ambient"]


def _tint(model: Any, by: dict[str, float]) -> None:
    """Give floors one tint and everything else another; what differs in colour still does."""
    import mujoco

    kinds = mujoco.mjtGeom
    floor = np.isin(model.geom_type, (kinds.mjGEOM_PLANE, kinds.mjGEOM_HFIELD))
    floors, bodies = (_tinted(by[f"{name}_red"], by[f"{name}_blue"]) for name in ("floor", "body"))
    for rgba, materials, tint in (
        (model.geom_rgba, model.geom_matid, np.where(floor[:, None], floors, bodies)),
        (model.skin_rgba, model.skin_matid, bodies),
    ):
        # MuJoCo draws the material's colour where a geom has none of its own, which 0.5 stands for.
        bare = (materials >= 0) & (rgba == (0.5, 0.5, 0.5, 1.0)).all(1)
        shown = np.where(bare[:, None], model.mat_rgba[materials] if model.nmat else rgba, rgba)
        rgba[:] = shown * tint


def _tinted(red: float, blue: float) -> np.ndarray:
    """Factors of red, green, blue and opacity, none above 1: what is white already can only lose: 4."""
    factors = GAIN ** np.array([red, 0.0, blue])
    return np.append(factors / factors.max(), 1.0)


def _nudge(model: Any, data: Any, by: dict[str, float]) -> None:
    """Turn every camera a little where it stands, the free one about what it looks at."""
    pan, tilt, roll = (NUDGE * by[f"camera_{name}"] for name in ("pan", "tilt", "roll"))
    data.cam_xmat[:] = (data.cam_xmat.reshape(-1, 3, 3) @ _turn(x=tilt, y=pan, z=roll)).reshape(-1, 9)
    model.vis.global_.azimuth += pan
    model.vis.global_.elevation += tilt


def _turn(x: float = 0.0, y: float = 0.0, z: float = 0.0) -> np.ndarray:
    """Turns about three axes, in degrees, one after the other: 3 3."""
    turned = np.eye(3)
    for axis, angle in enumerate(np.radians((x, y, z))):
        one, two = (axis + 1) % 3, (axis + 2) % 3
        matrix = np.eye(3)
        matrix[one, one] = matrix[two, two] = np.cos(angle)
        matrix[two, one], matrix[one, two] = np.sin(angle), -np.sin(angle)
        turned = matrix @ turned
    return turned

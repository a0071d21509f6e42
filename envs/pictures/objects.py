"""Procedural objects under a camera: families of asymmetric arrangements, each view turned and lit anew.

A stand-in for 3DIEBench, where a view is an object's rotation, a floor hue and a light. A family is a fixed
arrangement of parts; an object of it has parts of its own sizes, places and colours. Colour says nothing of
the family.
"""

import colorsys
from dataclasses import dataclass
from itertools import permutations, product

import numpy as np

from envs.render import GeometryRenderer, render_suite, resize

SLOTS = 8
SHAPES = ("box", "capsule", "ellipsoid", "cylinder")
DIAGONAL = 1.7  # of a box around an object: fits the picture, however it is turned
LATENTS = ("qx", "qy", "qz", "qw", "floor_hue", "light_theta", "light_phi", "light_hue")

_SCENE = """
<mujoco>
  <visual>
    <headlight ambient=".3 .3 .3" diffuse=".15 .15 .15" specular="0 0 0"/>
    <global offwidth="256" offheight="256"/>
  </visual>
  <worldbody>
    <geom name="floor" type="plane" pos="0 0 -1" size="30 30 1" contype="0" conaffinity="0"/>
    <light name="spot" cutoff="30" exponent="4" castshadow="false" diffuse="1 1 1" specular=".1 .1 .1"/>
    <light name="fill" type="directional" dir="0 -.6 -1" castshadow="false" diffuse=".25 .25 .25"
           specular="0 0 0"/>
    <camera name="eye" pos="0 1.77 1.77" xyaxes="-1 0 0 0 -.7071 .7071" fovy="40"/>
    <body name="object" mocap="true">{slots}</body>
  </worldbody>
  {more}
</mujoco>
"""
_SLOT = '<geom name="slot{}" type="box" size=".1 .1 .1" contype="0" conaffinity="0"/>'


@dataclass(frozen=True)
class Part:
    """A primitive: its shape, half sizes, place and attitude in the object, and colour."""

    shape: str
    size: np.ndarray  # 3
    place: np.ndarray  # 3
    attitude: np.ndarray  # 4, w first
    colour: np.ndarray  # 3


@dataclass(frozen=True)
class View:
    """How an object is shown: its rotation (x, y, z, w), the hue of the floor, and the light."""

    rotation: np.ndarray
    floor_hue: float
    light: tuple[float, float, float]  # theta, phi, hue

    def vector(self) -> np.ndarray:
        """All of it as 8 numbers, named by LATENTS."""
        return np.array([*self.rotation, self.floor_hue, *self.light], np.float32)


def draw_view(
    random: np.random.Generator,
    angles: tuple[float, float, float],
    least: tuple[float, float, float] = (0.0, 0.0, 0.0),
) -> View:
    """Turn by uniform extrinsic X, Y and Z angles from `least` to `angles`, and choose floor and light."""
    drawn = [random.uniform(-limit, limit) for limit in angles]
    x, y, z = (
        np.copysign(low + abs(angle) * (high - low) / high, angle) if low and high else angle
        for angle, low, high in zip(drawn, least, angles, strict=True)
    )
    rotation = multiply(about("z", z), multiply(about("y", y), about("x", x)))
    light = random.uniform(0, np.pi / 4), random.uniform(0, 2 * np.pi), random.uniform()
    return View(rotation, random.uniform(), light)


def family(number: int) -> list[Part]:
    """The parts of a family before any object of it varies them; the same for everybody, ever."""
    random = np.random.default_rng((7_001, number))
    parts = []
    for k in range(random.integers(4, 7)):
        size = random.uniform(0.08, 0.2, 3) if k else random.uniform(0.18, 0.34, 3)
        place = np.zeros(3)
        if k:  # on the outside of a part that is there: one piece, and rarely symmetric
            host = parts[random.integers(len(parts))]
            away = random.normal(size=3)
            place = host.place + away / np.linalg.norm(away) * (host.size.max() + 0.6 * size.max())
        attitude = random.normal(size=4)
        shape = SHAPES[random.integers(len(SHAPES))]
        parts.append(Part(shape, size, place, attitude / np.linalg.norm(attitude), np.ones(3)))
    return parts


def instance(number: int, index: int) -> list[Part]:
    """Object `index` of a family: other sizes, places, small turns, colours and sometimes one part more."""
    random = np.random.default_rng((7_002, number, index))
    base = family(number)
    spread = max(float(np.linalg.norm(part.place)) for part in base)
    stretch, hue, parts = random.uniform(0.85, 1.18, 3), random.uniform(), []
    for part in base:
        turn = random.normal(0, np.radians(6), 3)
        small = np.array([1.0, *(turn / 2)])
        parts.append(
            Part(
                part.shape,
                part.size * random.uniform(0.7, 1.35, 3),
                part.place * stretch + random.uniform(-0.12, 0.12, 3) * spread,
                _multiply_wxyz(small / np.linalg.norm(small), part.attitude),
                colour(hue + random.normal(0, 0.08), random.uniform(0.3, 0.8), random.uniform(0.5, 0.95)),
            )
        )
    if random.uniform() < 0.3:
        host, away = parts[random.integers(len(parts))], random.normal(size=3)
        place = host.place + away / np.linalg.norm(away) * host.size.max()
        parts.append(Part("ellipsoid", random.uniform(0.05, 0.1, 3), place, _UPRIGHT, colour(hue, 0.5, 0.8)))
    return _centred(parts)


_UPRIGHT = np.array([1.0, 0.0, 0.0, 0.0])


def colour(hue: float, saturation: float, value: float) -> np.ndarray:
    """Red, green and blue of a hue, which goes round: 3."""
    return np.array(colorsys.hsv_to_rgb(hue % 1.0, saturation, value))


def _centred(parts: list[Part]) -> list[Part]:
    """Put the middle of the bounding box at the origin and its diagonal at DIAGONAL."""
    reach = [part.size.max() for part in parts]
    low = np.min([part.place - r for part, r in zip(parts, reach, strict=True)], 0)
    high = np.max([part.place + r for part, r in zip(parts, reach, strict=True)], 0)
    scale, middle = DIAGONAL / np.linalg.norm(high - low), (low + high) / 2
    return [Part(p.shape, p.size * scale, (p.place - middle) * scale, p.attitude, p.colour) for p in parts]


class Scene:
    """One compiled model in which every object is drawn: its geometry is edited in place."""

    def __init__(self, more: str = "", look: str = "objects") -> None:
        """With `more` sections of MJCF beside the object; every other scene goes by a `look` of its own."""
        import mujoco

        self.look = look
        xml = _SCENE.format(slots="".join(_SLOT.format(i) for i in range(SLOTS)), more=more)
        self.model = mujoco.MjModel.from_xml_string(xml)
        self.data = mujoco.MjData(self.model)
        self.slots = [self.model.geom(f"slot{i}").id for i in range(SLOTS)]
        self.floor, self.spot = self.model.geom("floor").id, self.model.light("spot").id
        self.model.geom_sameframe[self.slots] = 0  # or their own place and attitude would not be looked at
        self.kinds = {name: int(getattr(mujoco.mjtGeom, f"mjGEOM_{name.upper()}")) for name in SHAPES}

    def show(self, parts: list[Part]) -> None:
        """Put another object under the camera."""
        model = self.model
        model.geom_rgba[self.slots] = 0.0  # slots that are not used are not drawn
        for slot, part in zip(self.slots, parts, strict=False):
            model.geom_type[slot] = self.kinds[part.shape]
            model.geom_size[slot] = part.size
            model.geom_pos[slot], model.geom_quat[slot] = part.place, part.attitude
            model.geom_rgba[slot] = [*part.colour, 1.0]
            model.geom_rbound[slot] = 2 * part.size.max()

    def draw(self, view: View, size: int, *, finer: int = 1) -> np.ndarray:
        """Draw the object as a view has it: uint8 size size 3, each pixel the mean of finer x finer."""
        import mujoco

        model, data = self.model, self.data
        data.mocap_quat[0] = np.roll(view.rotation, 1)  # MuJoCo has w first
        model.geom_rgba[self.floor] = [*colour(view.floor_hue, 0.6, 0.6), 1.0]
        theta, phi, hue = view.light
        place = 4 * np.array([np.sin(theta) * np.cos(phi), np.sin(theta) * np.sin(phi), np.cos(theta)])
        model.light_pos[self.spot], model.light_dir[self.spot] = place, -place / 4
        model.light_diffuse[self.spot] = colour(hue, 1.0, 0.8)
        mujoco.mj_forward(model, data)
        what = GeometryRenderer(self.look, model, data, "eye")
        return resize(render_suite(what, size * finer, size * finer), size, size)


def asymmetric(scene: Scene, parts: list[Part], *, size: int = 32, least: float = 4.0) -> bool:
    """Whether every turn of a cube changes the picture; a symmetric object has no rotation to be told."""
    scene.show(parts)
    plain = View(np.array([0.0, 0.0, 0.0, 1.0]), 0.5, (0.0, 0.0, 0.3))
    first = scene.draw(plain, size).astype(float)
    for turn in cube_rotations()[1:]:
        other = scene.draw(View(turn, plain.floor_hue, plain.light), size).astype(float)
        if np.abs(other - first).mean() < least:
            return False
    return True


# ---- quaternions, (x, y, z, w) as in the actions


def about(axis: str, angle: float) -> np.ndarray:
    """The rotation about a coordinate axis."""
    quaternion = np.zeros(4)
    quaternion["xyz".index(axis)], quaternion[3] = np.sin(angle / 2), np.cos(angle / 2)
    return quaternion


def multiply(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """First b, then a: ... 4, ... 4 -> ... 4."""
    (ax, ay, az, aw), (bx, by, bz, bw) = np.moveaxis(a, -1, 0), np.moveaxis(b, -1, 0)
    return np.stack(
        [
            aw * bx + ax * bw + ay * bz - az * by,
            aw * by - ax * bz + ay * bw + az * bx,
            aw * bz + ax * by - ay * bx + az * bw,
            aw * bw - ax * bx - ay * by - az * bz,
        ],
        -1,
    )


def relative(before: np.ndarray, after: np.ndarray) -> np.ndarray:
    """What turns one attitude into another, seen from the former, with w >= 0: ... 4, ... 4 -> ... 4."""
    turned = multiply(before * np.array([-1.0, -1.0, -1.0, 1.0]), after)
    return np.where(turned[..., 3:] < 0, -turned, turned)


def cube_rotations() -> list[np.ndarray]:
    """The 24 rotations of a cube, the identity first."""
    found: list[np.ndarray] = []
    for order, signs in product(permutations(range(3)), product((1, -1), repeat=3)):
        matrix = np.zeros((3, 3))
        matrix[range(3), order] = signs
        if np.linalg.det(matrix) > 0:
            found.append(_quaternion(matrix))
    return sorted(found, key=lambda q: -q[3])


def _quaternion(matrix: np.ndarray) -> np.ndarray:
    """A rotation matrix as the quaternion that is its dominant eigenvector (Bar-Itzhack)."""
    m = matrix
    k = np.array(
        [
            [m[0, 0] - m[1, 1] - m[2, 2], m[1, 0] + m[0, 1], m[2, 0] + m[0, 2], m[2, 1] - m[1, 2]],
            [m[1, 0] + m[0, 1], m[1, 1] - m[0, 0] - m[2, 2], m[2, 1] + m[1, 2], m[0, 2] - m[2, 0]],
            [m[2, 0] + m[0, 2], m[2, 1] + m[1, 2], m[2, 2] - m[0, 0] - m[1, 1], m[1, 0] - m[0, 1]],
            [m[2, 1] - m[1, 2], m[0, 2] - m[2, 0], m[1, 0] - m[0, 1], m[0, 0] + m[1, 1] + m[2, 2]],
        ]
    )
    vector = np.linalg.eigh(k)[1][:, -1]
    return vector if vector[3] >= 0 else -vector


def _multiply_wxyz(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return np.roll(multiply(np.roll(a, -1), np.roll(b, -1)), 1)

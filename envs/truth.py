"""What is true of an environment beyond what it shows: states to probe for, and paths to integrate.

A simulator may have a method `truth()` that returns named float arrays. Two names mean something:

- `pose`: coordinates that moves add up in, such as joint angles or a position;
- `planar_pose`: x, y and a heading, where moves turn the frame that later moves are made in.

Names that begin with `constant_` do not change within an episode.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from envs.spec import Simulator

Truth = dict[str, np.ndarray]
POSES = ("planar_pose", "pose")


def truth(simulator: Simulator, obs: Mapping[str, np.ndarray]) -> Truth:
    """What is true now, by name: -> dict of vectors; who says nothing is taken at what it shows."""
    found = getattr(simulator, "truth", dict)()
    if not found:
        found = {key: np.ravel(value) for key, value in obs.items() if value.dtype != np.uint8}
    return {name: np.asarray(value, np.float64).ravel() for name, value in found.items()}


def displacement(name: str, before: np.ndarray, after: np.ndarray) -> np.ndarray:
    """How a pose was left for another, seen from the former: ... P, ... P -> ... P."""
    moved = after - before
    if name != "planar_pose":
        return moved
    turned = np.angle(np.exp(1j * moved[..., 2:]))
    return np.concatenate([seen_from(before[..., 2], moved[..., :2]), turned], -1)


def seen_from(heading: np.ndarray, offset: np.ndarray) -> np.ndarray:
    """An offset in the plane as somebody with this heading sees it: ..., ... 2 -> ... 2."""
    cos, sin, x, y = np.cos(heading), np.sin(heading), offset[..., 0], offset[..., 1]
    return np.stack([cos * x + sin * y, cos * y - sin * x], -1)


def suite_truth(physics: Any) -> Truth:
    """Positions, velocities and the pose of a dm_control simulation; where its target is, if it has one."""
    import mujoco

    model, data = physics.model.ptr, physics.data.ptr
    found = {"position": np.array(data.qpos), "velocity": np.array(data.qvel)}
    planar = _planar_pose(model, data)
    found |= {"pose": found["position"]} if planar is None else {"planar_pose": planar}
    target = mujoco.mj_name2id(model, mujoco.mjtObj.mjOBJ_GEOM, "target")
    if target >= 0:
        found["constant_target"] = np.array(model.geom_pos[target])
    return found


def _planar_pose(model: Any, data: Any) -> np.ndarray | None:
    """x, y and heading of the root: of a free body seen from above, of a planar one in its plane; or None."""
    import mujoco

    kinds = mujoco.mjtJoint
    if model.njnt and model.jnt_type[0] == kinds.mjJNT_FREE:
        x, y, _, a, b, c, d = data.qpos[:7]
        return np.array([x, y, np.arctan2(2 * (a * d + b * c), 1 - 2 * (c * c + d * d))])
    roots = {model.joint(i).name: i for i in range(model.njnt) if model.joint(i).name.startswith("root")}
    slides = sorted(name for name, i in roots.items() if model.jnt_type[i] == kinds.mjJNT_SLIDE)
    hinges = [name for name, i in roots.items() if model.jnt_type[i] == kinds.mjJNT_HINGE]
    if len(slides) != 2 or len(hinges) != 1:
        return None
    values = [data.qpos[model.jnt_qposadr[roots[name]]] for name in (*slides, *hinges)]
    # In the x-z plane a positive turn about y leads from z to x.
    return np.array([values[0], values[1], -values[2] if hinges == ["rooty"] else values[2]])

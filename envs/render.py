"""Pictures of MuJoCo models without a screen: find a working GL, draw fast or in full quality."""

import atexit
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np

from envs.spec import EnvError

_PROBE = """
import os, sys
os.environ["MUJOCO_GL"] = os.environ["PYOPENGL_PLATFORM"] = sys.argv[1]
import mujoco
xml = "<mujoco><worldbody><light pos='0 0 3'/><geom size='1'/></worldbody></mujoco>"
model = mujoco.MjModel.from_xml_string(xml)
data = mujoco.MjData(model)
mujoco.mj_forward(model, data)
renderer = mujoco.Renderer(model, 16, 16)
renderer.update_scene(data)
sys.exit(0 if renderer.render().any() else 3)
"""
_ADVICE = (
    "no off-screen GL works (tried {tried}); install one with `apt install libegl1 libgl1 libglx-mesa0` (or "
    "`apt install libosmesa6` and MUJOCO_GL=osmesa), or train from state with env.observations=state"
)


class GeometryRenderer(NamedTuple):
    """What is to be drawn: a model, its data and a camera; `key` names models that look alike."""

    key: str
    model: Any
    data: Any
    camera: int | str


@lru_cache(maxsize=1)
def choose_backend(timeout_s: float = 60.0) -> str:
    """Name a GL backend that draws a frame in a subprocess, set the environment for it, or raise EnvError."""
    asked = os.environ.get("MUJOCO_GL", "").lower()
    if asked in ("disable", "disabled", "off", "false", "0"):
        raise EnvError(f"MUJOCO_GL={asked} switches rendering off; unset it, or use env.observations=state")
    candidates = (asked,) if asked else ("egl", "osmesa")
    for name in candidates:
        # Trying in a child: a broken driver aborts the process or hangs, and an import can not be taken back.
        if _draws(name, timeout_s):
            os.environ["MUJOCO_GL"] = name
            if name != "glfw":
                os.environ["PYOPENGL_PLATFORM"] = name
            return name
    tried = f"MUJOCO_GL={asked}; unset it to try others" if asked else ", ".join(candidates)
    raise EnvError(_ADVICE.format(tried=tried))


def _draws(name: str, timeout_s: float) -> bool:
    command = [sys.executable, "-c", _PROBE, name]
    try:
        return subprocess.run(command, timeout=timeout_s, capture_output=True, check=False).returncode == 0
    except subprocess.TimeoutExpired:
        return False


class _Studio:
    """One GL context for the process; one set of textures per kind of model and quality."""

    def __init__(self) -> None:
        backend = choose_backend()
        if backend == "egl":
            from mujoco.egl import GLContext
        elif backend == "osmesa":
            from mujoco.osmesa import GLContext
        else:
            from mujoco.glfw import GLContext
        self.gl = GLContext(64, 64)
        self.gl.make_current()
        # Left to the interpreter's end, it would be freed after the library it needs.
        atexit.register(self.gl.free)
        self.stages: dict[tuple[str, str], _Stage] = {}

    def draw(self, what: GeometryRenderer, height: int, width: int, quality: str) -> np.ndarray:
        key = (what.key, quality)
        if key not in self.stages:
            self.stages[key] = _Stage(what.model, quality)
        return self.stages[key].draw(what, height, width)


class _Stage:
    """MuJoCo's drawing objects for one kind of model; never freed, as that breaks later pictures."""

    def __init__(self, model: Any, quality: str) -> None:
        import mujoco

        settings = model.vis.quality
        saved = settings.offsamples, settings.shadowsize
        if quality == "fast":
            settings.offsamples = settings.shadowsize = 0
        self.context = mujoco.MjrContext(model, mujoco.mjtFontScale.mjFONTSCALE_100)
        settings.offsamples, settings.shadowsize = saved
        mujoco.mjr_setBuffer(mujoco.mjtFramebuffer.mjFB_OFFSCREEN, self.context)
        self.scene = mujoco.MjvScene(model, maxgeom=2000)
        if quality == "fast":
            self.scene.flags[mujoco.mjtRndFlag.mjRND_SHADOW] = 0
            self.scene.flags[mujoco.mjtRndFlag.mjRND_REFLECTION] = 0
        self.option = mujoco.MjvOption()
        self.size = (self.context.offHeight, self.context.offWidth)

    def draw(self, what: GeometryRenderer, height: int, width: int) -> np.ndarray:
        import mujoco

        if height > self.size[0] or width > self.size[1]:
            self.size = max(height, self.size[0]), max(width, self.size[1])
            mujoco.mjr_resizeOffscreen(self.size[1], self.size[0], self.context)
        if what.model.nhfield:
            mujoco.mjr_uploadHField(what.model, self.context, 0)
        # Several contexts share the GL: each must say again that it draws off screen.
        mujoco.mjr_setBuffer(mujoco.mjtFramebuffer.mjFB_OFFSCREEN, self.context)
        view = mujoco.MjrRect(0, 0, width, height)
        everything = mujoco.mjtCatBit.mjCAT_ALL
        mujoco.mjv_updateScene(
            what.model, what.data, self.option, None, _camera(what.model, what.camera), everything, self.scene
        )
        mujoco.mjr_render(view, self.scene, self.context)
        image = np.empty((height, width, 3), np.uint8)
        mujoco.mjr_readPixels(image, None, view, self.context)
        return np.ascontiguousarray(image[::-1])


def _camera(model: Any, wanted: int | str) -> Any:
    import mujoco

    camera = mujoco.MjvCamera()
    number = (
        wanted if isinstance(wanted, int) else mujoco.mj_name2id(model, mujoco.mjtObj.mjOBJ_CAMERA, wanted)
    )
    if isinstance(wanted, str) and number < 0:
        known = [model.camera(i).name for i in range(model.ncam)]
        raise EnvError(f"this model has no camera {wanted!r}; choose one of {known} or a number")
    if number >= max(model.ncam, 1):
        raise EnvError(f"env.camera={wanted}, but the model has cameras 0 to {model.ncam - 1}")
    if number < 0 or model.ncam == 0:
        mujoco.mjv_defaultFreeCamera(model, camera)
    else:
        camera.type, camera.fixedcamid = mujoco.mjtCamera.mjCAMERA_FIXED, number
    return camera


# A GL context belongs to one thread, whoever asks for a picture.
_THREAD = ThreadPoolExecutor(1, thread_name_prefix="render")


@lru_cache(maxsize=1)
def _studio() -> _Studio:
    return _Studio()


def render_suite(what: GeometryRenderer, height: int, width: int, quality: str = "fast") -> np.ndarray:
    """Draw a model, `fast` without shadows, reflections and smoothing, or `full`: uint8 height width 3."""
    if quality not in ("fast", "full"):
        raise EnvError(f"render quality {quality!r} is unknown; choose fast or full")
    try:
        return _THREAD.submit(lambda: _studio().draw(what, height, width, quality)).result()
    except EnvError:
        raise
    except Exception as error:
        backend, why = os.environ.get("MUJOCO_GL"), f"{type(error).__name__}: {error}".splitlines()[0]
        raise EnvError(
            f"MuJoCo cannot draw here with MUJOCO_GL={backend} ({why}); unset it to have another tried, "
            "or train from state with env.observations=state"
        ) from error


def resize(image: np.ndarray, height: int, width: int) -> np.ndarray:
    """Shrink or stretch a picture by averaging the pixels that fall together: Y X C -> height width C."""
    if image.shape[:2] == (height, width):
        return image
    rows = np.arange(height) * image.shape[0] // height
    columns = np.arange(width) * image.shape[1] // width
    if height > image.shape[0] or width > image.shape[1]:
        return np.ascontiguousarray(image[rows][:, columns])
    summed = np.add.reduceat(np.add.reduceat(image.astype(np.uint32), rows, 0), columns, 1)
    counts = np.outer(np.diff(rows, append=image.shape[0]), np.diff(columns, append=image.shape[1]))
    return (summed // counts[..., None]).astype(np.uint8)

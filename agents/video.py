"""Films of evaluation episodes; where rendering does not work, one notice and no film."""

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from agents.cli import DiskError
from agents.durable import disk_errors, free_bytes
from agents.rollouts import PLAY_SEED, Watcher
from envs import EnvError, simulator_from_config

FRAMES_PER_SECOND = 25


class Recorder:
    """Writes an episode's pictures to an mp4 file, a stride of decisions apart."""

    def __init__(self, *, size: int, stride: int, quality: str) -> None:
        self.size, self.stride, self.quality = size, stride, quality

    @contextlib.contextmanager
    def film(self, path: Path) -> Iterator[Watcher]:
        """Open a film; call the watcher after each decision. The file appears complete or not at all."""
        import imageio

        partial = path.with_name(f".tmp-{path.name}")
        with disk_errors(path):  # ffmpeg would say less clearly that it cannot write there
            path.parent.mkdir(parents=True, exist_ok=True)
            partial.touch()
        # yuv420p plays everywhere; macro_block_size=2 keeps our size instead of rounding it to 16.
        options: Any = {"codec": "libx264", "macro_block_size": 2, "ffmpeg_log_level": "error"}
        writer = imageio.get_writer(partial, fps=FRAMES_PER_SECOND, **options)

        pictures = 0

        def watch(decision: int, simulator: Any) -> None:
            nonlocal pictures
            if (decision - 1) % self.stride == 0:  # the first one always: no film is of nothing
                picture = simulator.render(self.size, self.size, quality=self.quality)
                with _ffmpeg_errors(path):
                    writer.append_data(picture)
                pictures += 1

        try:
            yield watch
            with _ffmpeg_errors(path):
                writer.close()
            if pictures:
                partial.replace(path)
        finally:
            with contextlib.suppress(OSError):  # closing again what ffmpeg gave up on
                writer.close()
            partial.unlink(missing_ok=True)


@contextlib.contextmanager
def _ffmpeg_errors(path: Path) -> Iterator[None]:
    # All that can fail while ffmpeg takes pictures is its output; its own report is an OSError of many lines.
    try:
        yield
    except OSError as error:
        free = free_bytes(path)
        raise DiskError(
            f"the film {path} cannot be written: ffmpeg gave up ({free:,} bytes free)",
            "free some space, choose another place with out=…, or train with trainer.video=false",
        ) from error


class Blind:
    """Stands in for a recorder where nothing can be drawn."""

    @contextlib.contextmanager
    def film(self, path: Path) -> Iterator[None]:
        """Film nothing."""
        yield None


def require_rendering(env: Any) -> None:
    """Raise EnvError unless the environment can be drawn; call it before any simulator is imported."""
    if env.kind == "toy":
        raise EnvError(f"the toy {env.task} has no pictures; film a dmc or gym environment")
    if env.kind == "dmc":
        from envs.render import choose_backend

        choose_backend()
        return
    # Gymnasium environments draw with packages of their own: only trying tells whether they are here.
    simulator = simulator_from_config(env, PLAY_SEED, 0)
    try:
        simulator.reset()
        simulator.render(16, 16)
    finally:
        simulator.close()


def make_recorder(env: Any, say: Callable[[str], None]) -> Recorder | Blind:
    """Make the recorder of a training run; where nothing can be drawn, `say` why and film nothing."""
    try:
        require_rendering(env)
    except EnvError as error:
        if env.observations != "state":
            raise
        if env.kind != "toy":
            say(f"no videos: {error}")
        return Blind()
    # An evaluation film is for a look, not for a paper: a few seconds of drawing at most.
    return Recorder(size=160, stride=4, quality="fast")

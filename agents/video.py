"""Films of evaluation episodes; where rendering does not work, one notice and no film."""

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from agents.rollouts import Watcher
from envs import EnvError

FRAMES_PER_SECOND = 25


class Recorder:
    """Writes an episode's pictures to an mp4 file, a stride of decisions apart."""

    def __init__(self, *, size: int, stride: int, quality: str) -> None:
        self.size, self.stride, self.quality = size, stride, quality

    @contextlib.contextmanager
    def film(self, path: Path) -> Iterator[Watcher]:
        """Open a film; call the watcher after each decision. The file appears complete or not at all."""
        import imageio

        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_name(f".tmp-{path.name}")
        # yuv420p plays everywhere; macro_block_size=2 keeps our size instead of rounding it to 16.
        options: Any = {"codec": "libx264", "macro_block_size": 2, "ffmpeg_log_level": "error"}
        writer = imageio.get_writer(partial, fps=FRAMES_PER_SECOND, **options)

        def watch(decision: int, simulator: Any) -> None:
            if decision % self.stride == 0:
                writer.append_data(simulator.render(self.size, self.size, quality=self.quality))

        try:
            yield watch
        except BaseException:
            writer.close()
            partial.unlink(missing_ok=True)
            raise
        writer.close()
        if partial.exists():
            partial.replace(path)


class Blind:
    """Stands in for a recorder where nothing can be drawn."""

    @contextlib.contextmanager
    def film(self, path: Path) -> Iterator[None]:
        """Film nothing."""
        yield None


def require_rendering(env: Any) -> None:
    """Raise EnvError unless pictures of the environment can be drawn; call it before any simulator is imported."""
    if env.kind == "toy":
        raise EnvError(f"the toy {env.task} has no pictures; film a dmc or gym environment")
    if env.kind == "dmc":
        from envs.render import choose_backend

        choose_backend()


def make_recorder(env: Any, say: Callable[[str], None]) -> Recorder | Blind:
    """Make the recorder of a training run; where nothing can be drawn, `say` the reason once and film nothing."""
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

"""R22: a clock that jumps, or a machine that slept, shows no negative time and loses no save."""

import io
import itertools
import time

from agents.progress import Progress
from agents.train import main as train
from tests.e2e.conftest import TOY
from tests.e2e.runner import fingerprint
from tests.unit.agents.test_logging import Clock


def test_progress_never_shows_a_negative_time_left():
    clock, stream = Clock(), io.StringIO()
    progress = Progress(100, every_s=1, mode="plain", stream=stream, clock=clock)
    for now, frames in ((0, 0), (2, 150), (1, 160), (500, 10), (502, 10)):
        clock.now = now
        progress.update(frames, 0)
    text = stream.getvalue()
    assert text.count("\n") == 3
    assert "-" not in text
    assert "0:00:00 left" in text


def test_a_run_under_a_jumping_clock_saves_as_ever(tell, monkeypatch, tmp_path, finished):
    jumps = itertools.cycle((0.0, -86_400.0, 3.0e7))
    real = time.time
    monkeypatch.setattr(time, "time", lambda: real() + next(jumps))
    short = ("trainer.frames=400", "trainer.checkpoint_every=100", "trainer.eval_every=200")
    code, text = tell(train, *TOY, *short, "trainer.eval_episodes=2", f"run.dir={tmp_path / 'run'}")
    assert code == 0, text
    assert fingerprint(tmp_path / "run") == fingerprint(finished)

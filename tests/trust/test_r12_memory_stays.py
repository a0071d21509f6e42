"""R12: memory does not grow with time: at most 1 MB in 10,000 frames once the replay is full."""

import json

import numpy as np
import pytest

from tests.e2e.conftest import last_wins
from tests.trust.conftest import RUN

RATE = 1.0  # MB in 10,000 frames


@pytest.mark.long
@pytest.mark.timeout(3600)
def test_a_long_run_takes_no_more_memory(runner, tmp_path):
    long = ("trainer.frames=80_000", "trainer.log_every=2000", "trainer.updates_per_decision=0.05")
    often = ("trainer.eval_every=5000", "trainer.checkpoint_every=5000", "replay.capacity=1000")
    answer = runner.train(*last_wins(*RUN, *long, *often), f"run.dir={tmp_path / 'run'}")
    assert answer["code"] == 0, runner.log.read_text()
    rows = [json.loads(line) for line in (tmp_path / "run" / "timing.jsonl").read_text().splitlines()]
    frames, memory = np.array([(row["frames"], row["speed/rss_mb"]) for row in rows]).T
    late = frames > 30_000
    slope = np.polyfit(frames[late] / 10_000, memory[late], 1)[0]
    print(f"{slope:.3f} MB in 10,000 frames, {memory[late].mean():.0f} MB at all")
    assert slope <= RATE

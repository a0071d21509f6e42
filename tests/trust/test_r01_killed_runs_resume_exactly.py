"""R1: kill -9 at random moments, start again: the same bytes as without, at most one interval done twice."""

import random

import pytest

from agents import checkpoint
from tests.e2e.runner import fingerprint
from tests.trust.conftest import RUN

INTERVAL, FRAMES = 500, 1_000  # between checkpoints of trainer=debug, and all of them


def killed_twice(runner, run, draw, seconds):
    """Kill a run twice at most, within what it has left to do, then let it finish: where each start began."""
    code, kills, began = -9, 0, []
    while code == -9:
        newest = checkpoint.latest(run / "checkpoints") if run.exists() else None
        began.append(int(newest.name) if newest else 0)
        left = 1 - began[-1] / FRAMES
        after = draw.uniform(0.05, 0.9) * left * seconds if kills < 2 else None
        code = runner.train(*RUN, f"run.dir={run}", kill_after=after)["code"]
        kills += 1
    assert code == 0, runner.log.read_text()
    return began


@pytest.mark.parametrize(
    "seed", [*range(4), *(pytest.param(seed, marks=pytest.mark.long) for seed in range(4, 20))]
)
def test_kills_at_random_moments_change_nothing(runner, undisturbed, tmp_path, seed):
    expected, seconds = undisturbed
    run = tmp_path / "run"
    began = killed_twice(runner, run, random.Random(seed), seconds)
    assert fingerprint(run) == expected
    assert began == sorted(began)  # nothing that was committed is lost


def test_no_more_than_an_interval_is_done_twice(runner, undisturbed, tmp_path):
    """Killed once a checkpoint is there, it goes on from just that checkpoint."""
    run = tmp_path / "run"
    runner.train(*RUN, f"run.dir={run}", kill_when=run / "checkpoints" / f"{INTERVAL:09d}")
    assert int(checkpoint.latest(run / "checkpoints").name) == INTERVAL
    runner.log.write_text("")
    assert runner.train(*RUN, f"run.dir={run}")["code"] == 0
    assert f"resuming {run} at {INTERVAL} frames" in runner.log.read_text()
    assert fingerprint(run) == undisturbed[0]

"""R7: workers that are killed are replaced within a budget, and no transition crosses a crash."""

import json
import os
import random
import signal

import pytest

from agents.train import main as train
from envs import make_batch
from tests.e2e.conftest import QUIET
from tests.unit.envs.test_faults import check_no_transition_crosses_a_crash, walk


@pytest.mark.parametrize(("kills", "decisions"), [(10, 300), pytest.param(50, 5000, marks=pytest.mark.long)])
def test_kills_at_random_moments_cost_only_their_segments(kills, decisions):
    """Two environments in two workers; the counters that they show have no jump that is not an end."""
    draw = random.Random(0)
    env = make_batch({"kind": "toy", "task": "counter"}, 2, backend="process", workers=2, restarts=kills)
    when = set(draw.sample(range(5, decisions - 5), kills))
    rows = []
    for number, row in enumerate(walk(env, decisions)):
        rows.append((row[0], row[1].clone()))
        if number in when:
            os.kill(env.backend.pids[draw.randrange(2)], signal.SIGKILL)
    check_no_transition_crosses_a_crash(rows)
    assert env.restarts_used == kills
    env.close()


@pytest.mark.parametrize("how", ["exception", "kill"])
def test_dead_workers_are_replaced_within_a_budget(tell, tmp_path, how):
    broken = ("env=toy_crash", f"env.kwargs.how={how}", "env.kwargs.only_index=1", "env.backend=process")
    small = ("env.workers=2", "trainer=debug", "logger.progress=off", "trainer.frames=40")
    code, text = tell(train, *broken, *small, "env.restarts=1", f"run.dir={tmp_path / 'run'}")
    assert code == 2
    assert "env.restarts=1" in text
    assert ("toy_crash broke at frame 5" if how == "exception" else "ended with code -9") in text
    code, text = tell(train, *broken, *small, "env.restarts=50", f"run.dir={tmp_path / 'run'}")
    assert code == 0, text


def test_an_evaluation_episode_that_breaks_is_played_again_and_counted(tell, tmp_path):
    some = ("env=toy_crash", "env.kwargs.every=2", *QUIET, "trainer.frames=40")
    code, _ = tell(train, *some, "env.restarts=50", f"run.dir={tmp_path / 'run'}")
    assert code == 0
    rows = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    (row,) = [row for row in rows if "eval/return" in row]
    assert row["eval/broken"] == 1.0

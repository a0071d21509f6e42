"""R6: how long workers take, and which of them answers first, changes no byte."""

import sys

import pytest

from agents.train import main as train
from tests.e2e.conftest import last_wins
from tests.e2e.runner import fingerprint

JITTER = """
import os, random, time
import gymnasium
import numpy as np


class Drifting(gymnasium.Env):
    observation_space = gymnasium.spaces.Box(-9, 9, (3,))
    action_space = gymnasium.spaces.Box(-1, 1, (2,))
    clock = random.Random(os.getpid())  # of this process, seeded by nothing that repeats

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.place, self.left = self.np_random.normal(size=3).astype(np.float32), 25
        return self.place.copy(), {}

    def step(self, action):
        time.sleep(self.clock.random() * float(os.environ.get("JITTER_S", "0")))
        self.place[:2] += 0.1 * action
        self.left -= 1
        return self.place.copy(), float(-np.abs(self.place).sum()), False, self.left == 0, {}


make = Drifting
"""
WORKERS = ("env.entry=drifting:make", "env.backend=process", "env.num=4", "env.workers=3")
SHORT = ("trainer=debug", "trainer.frames=400", "trainer.eval_every=0", "logger.progress=off")


@pytest.fixture(autouse=True)
def drifting(tmp_path, monkeypatch):
    """A module to import, here and in workers; the next test has one of its own."""
    (tmp_path / "drifting.py").write_text(JITTER)
    monkeypatch.syspath_prepend(tmp_path)
    yield
    sys.modules.pop("drifting", None)


def test_jitter_in_workers_changes_nothing(tell, tmp_path, monkeypatch):
    found = []
    for jitter in ("0", "0.01", "0.03"):
        monkeypatch.setenv("JITTER_S", jitter)
        run = tmp_path / jitter
        code, text = tell(train, *last_wins(*SHORT, *WORKERS), f"run.dir={run}")
        assert code == 0, text
        found.append(fingerprint(run))
    assert found[0] == found[1] == found[2]


def test_the_number_of_workers_changes_nothing(tell, tmp_path):
    found = []
    for backend, workers in (("serial", 1), ("process", 1), ("process", 4)):
        run = tmp_path / f"{backend}{workers}"
        changed = (*SHORT, WORKERS[0], f"env.backend={backend}", "env.num=4", f"env.workers={workers}")
        code, text = tell(train, *changed, f"run.dir={run}")
        assert code == 0, text
        found.append(fingerprint(run))
    assert found[0] == found[1] == found[2]

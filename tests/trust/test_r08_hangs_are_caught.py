"""R8: an environment or a renderer that hangs is found within 60 seconds and begun anew."""

import time

import pytest

from agents.config import load_config
from envs import make_batch
from tests.unit.envs.test_faults import check_no_transition_crosses_a_crash, walk


def test_the_time_allowed_is_at_most_a_minute():
    assert load_config([]).env.timeout_s <= 60


@pytest.mark.parametrize("timeout_s", [1.0, 3.0])
def test_a_hung_worker_is_found_in_time_and_replaced(timeout_s):
    kwargs = {"at": 2, "every": 3}
    toy = {"kind": "toy", "task": "hang", "kwargs": kwargs}
    env = make_batch(toy, 1, backend="process", timeout_s=timeout_s, restarts=1)
    began = time.monotonic()
    rows = list(walk(env, 8))
    took = time.monotonic() - began
    check_no_transition_crosses_a_crash(rows)
    assert env.restarts_used == 1
    assert timeout_s <= took < timeout_s + 10
    env.close()


HUNG_RENDERER = """
import time
import gymnasium
import numpy as np


class Hung(gymnasium.Env):
    picture = gymnasium.spaces.Box(0, 255, (3, 8, 8), np.uint8)
    observation_space = gymnasium.spaces.Dict({"state": gymnasium.spaces.Box(-1, 1, (2,)), "pixels": picture})
    action_space = gymnasium.spaces.Box(-1, 1, (1,))
    drawn = 0

    def draw(self):
        Hung.drawn += 1
        if Hung.drawn == 7:
            time.sleep(3600)
        return {"state": np.zeros(2, np.float32), "pixels": np.zeros((3, 8, 8), np.uint8)}

    def reset(self, *, seed=None, options=None):
        return self.draw(), {}

    def step(self, action):
        return self.draw(), 0.0, False, False, {}


make = Hung
"""


def test_a_hung_renderer_is_found_too(tmp_path, monkeypatch):
    (tmp_path / "hung.py").write_text(HUNG_RENDERER)
    monkeypatch.syspath_prepend(tmp_path)
    entry = {"kind": "entry", "entry": "hung:make", "observations": "both", "time_limit": 20}
    env = make_batch(entry, 1, backend="process", timeout_s=2.0, restarts=1)
    began = time.monotonic()
    list(walk(env, 9))
    assert env.restarts_used == 1
    assert time.monotonic() - began < 30
    env.close()

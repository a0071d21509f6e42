"""The diagnosis finds planted faults and passes sound environments."""

import numpy as np

from envs import make
from envs.check import diagnose


def levels(**arguments):
    """Diagnose a toy and gather the texts per level."""
    return texts(lambda seed, index: make("toy", seed=seed, index=index, **arguments))


def texts(build):
    """Join the findings of a level: {level: text}."""
    found = {"ok": "", "warning": "", "problem": ""}
    for finding in diagnose(build):
        found[finding.level] += finding.text + "; "
    return found


def test_a_sound_environment_has_no_problem():
    """Everything is tried and nothing complained about."""
    found = levels(task="point_mass")
    assert found["problem"] == found["warning"] == ""
    assert "bit for bit" in found["ok"]
    assert "truncated after 100 control steps" in found["ok"]


def test_nan_is_a_problem():
    """The key is named."""
    assert "NaN or infinite: state" in levels(task="nan_obs")["problem"]


def test_a_crash_is_reported_not_raised():
    """The user sees the text of the exception."""
    assert "toy_crash broke at frame 5" in levels(task="crash")["problem"]
    assert "unknown toy" in levels(task="crahs")["problem"]


def test_unseeded_randomness_is_a_problem():
    """The same seed must give the same episode."""

    def build(seed, index):
        toy = make("toy", task="point_mass", seed=seed, index=index)
        toy._start = lambda: np.random.default_rng().uniform(-1, 1, 4)
        return toy

    assert "same seed differ" in texts(build)["problem"]


def test_an_inexact_snapshot_is_a_warning():
    """Training is possible, exact resuming is not."""

    def build(seed, index):
        toy = make("toy", task="identity_continuous", seed=seed, index=index)
        restore = toy.restore
        toy.restore = lambda saved: restore({**saved, "random_pos": 5})
        return toy

    assert "goes on differently" in texts(build)["warning"]


def test_a_time_limit_that_terminates_is_a_warning():
    """An end exactly at the known limit is hardly an accident."""

    def build(seed, index):
        toy = make("toy", task="counter", kwargs={"length": 9, "end": "terminate"}, seed=seed, index=index)
        object.__setattr__(toy.spec, "episode_frames", 9)
        return toy

    assert "shows as termination" in texts(build)["warning"]

"""A state that is drawn again looks otherwise, and nothing else comes of it."""

import numpy as np
import pytest

from envs import make
from envs.nuisance import NAMES, Nuisance, altered, redraw


def numbers(simulator):
    """Every array of a simulation's model and data, what is drawn of them included."""
    import mujoco

    model, data = simulator.physics.model.ptr, simulator.physics.data.ptr
    size = mujoco.mj_stateSize(model, mujoco.mjtState.mjSTATE_INTEGRATION)
    state = np.empty(size)
    mujoco.mj_getState(model, data, state, mujoco.mjtState.mjSTATE_INTEGRATION)
    found = {"state": state, "free": np.array([model.vis.global_.azimuth, model.vis.global_.elevation])}
    for kind, owner in (("model", model), ("data", data), ("head", model.vis.headlight)):
        for name in dir(owner):
            if isinstance(value := getattr(owner, name), np.ndarray) and value.dtype != object:
                found[f"{kind}.{name}"] = value.copy()
    return found


def test_redrawing_leaves_no_trace(gl):
    """Model, data, random numbers and all that is seen later are those of a simulator that never did."""
    pair = [make("dmc", task="walker_walk", observations="both", pixels=24, seed=3) for _ in range(2)]
    random, plan = np.random.default_rng(0), np.random.default_rng(1).uniform(-1, 1, (6, 6))
    for simulator in pair:
        simulator.reset()
    for action in plan.astype(np.float32):
        before, drawn = numbers(pair[0]), pair[0].task.random.get_state()[1].copy()
        pair[0].redraw(Nuisance.draw(random))
        after = numbers(pair[0])
        assert len(before) > 300
        assert [name for name in before if before[name].tobytes() != after[name].tobytes()] == []
        assert np.array_equal(pair[0].task.random.get_state()[1], drawn)
        mine, other = (simulator.step(action) for simulator in pair)
        assert mine.reward == other.reward
        assert all(np.array_equal(mine.obs[key], other.obs[key]) for key in other.obs)
    assert all(np.array_equal(a.reset()["pixels"], b.reset()["pixels"]) for a, b in [pair])


@pytest.mark.parametrize("task", ["walker_walk", "reacher_easy", "ball_in_cup_catch"])
def test_looks_differ_and_come_back(gl, task):
    """Every number is seen, the same numbers give the same picture, and neutral ones that which was seen."""
    simulator = make("dmc", task=task, observations="pixels", pixels=48)
    seen = simulator.reset()["pixels"]
    assert np.array_equal(simulator.redraw(Nuisance.neutral())["pixels"], seen)
    one, two = (Nuisance.draw(np.random.default_rng(seed)) for seed in (0, 1))
    pictures = [simulator.redraw(look)["pixels"] for look in (one, two, one)]
    assert np.array_equal(pictures[0], pictures[2])
    assert np.abs(pictures[0].astype(int) - pictures[1]).mean() > 2
    for place, name in enumerate(NAMES):
        values = Nuisance.neutral().values.copy()
        values[place] = 0.0
        assert not np.array_equal(simulator.redraw(Nuisance(values))["pixels"], seen), name


def test_an_error_while_drawing_puts_everything_back():
    simulator = make("dmc", task="cartpole_swingup")
    simulator.reset()
    before = numbers(simulator)
    model, data = simulator.physics.model.ptr, simulator.physics.data.ptr

    def fail():
        with altered(model, data, Nuisance.draw(np.random.default_rng(0))):
            assert not np.array_equal(model.geom_rgba, before["model.geom_rgba"])
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    after = numbers(simulator)
    assert [name for name in before if before[name].tobytes() != after[name].tobytes()] == []


def test_only_pictures_that_are_seen_are_redrawn(gl):
    """A veil redraws the present, what is hidden stays hidden, and who sees no picture has none to redraw."""
    look = Nuisance.draw(np.random.default_rng(0))
    veiled = make("dmc", task="cartpole_swingup", observations="both", pixels=24, hide=["velocity"], delay=2)
    veiled.reset()
    for _ in range(8):
        late = veiled.step(np.ones(1, np.float32)).obs
    assert np.array_equal(redraw(veiled, look)["pixels"], veiled.simulator.redraw(look)["pixels"])
    assert not np.array_equal(redraw(veiled, Nuisance.neutral())["pixels"], late["pixels"])
    hidden = make("dmc", task="cartpole_swingup", observations="both", pixels=24, hide=["pixels"])
    for blind in (hidden, make("dmc", task="cartpole_swingup"), make("toy", task="rover", delay=1)):
        blind.reset()
        assert redraw(blind, look) == {}

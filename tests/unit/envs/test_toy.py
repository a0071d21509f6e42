"""Toys keep to their closed forms."""

import numpy as np
import pytest

from envs import make


def value_iteration(end, size, discount):
    """Solve the ring slowly: place 2."""
    q = np.zeros((size, 2))
    for _ in range(2000):
        for place in range(size):
            for choice, move in enumerate((-1, 1)):
                after = (place + move) % size
                final = after == 0 and end == "terminate"
                q[place, choice] = float(after == 0) + (0 if final else discount * q[after].max())
    if end == "terminate":
        q[0] = 0
    return q


@pytest.mark.parametrize("end", ["terminate", "truncate"])
@pytest.mark.parametrize("size", [3, 6, 7])
def test_the_rings_closed_form_is_its_fixed_point(end, size):
    """optimal_q is what value iteration converges to."""
    ring = make("toy", task="ring", kwargs={"size": size, "end": end})
    assert np.allclose(ring.optimal_q(0.9), value_iteration(end, size, 0.9), atol=1e-9)


def test_the_ring_moves_and_ends_as_its_form_assumes():
    """Arriving at place 0 pays 1 and ends there, or goes on to the limit."""
    right = np.array([0, 1], np.float32)
    for end in ("terminate", "truncate"):
        ring = make("toy", task="ring", kwargs={"end": end, "length": 9})
        place = int(ring.reset()["state"].argmax())
        for _ in range(6 - place):
            step = ring.step(right)
        assert step.reward == 1
        assert step.obs["state"].argmax() == 0
        assert (step.terminated, step.truncated) == (end == "terminate", False)


@pytest.mark.parametrize("task", ["identity", "identity_continuous"])
def test_identity_pays_most_for_what_it_shows(task):
    """Copying the observation is the best action."""
    toy = make("toy", task=task, seed=1)
    state = toy.reset()["state"]
    for _ in range(10):
        step = toy.step(state)
        assert step.reward == pytest.approx(1.0)
        state = step.obs["state"]
    assert toy.step(-state).reward < 1


@pytest.mark.parametrize("end", ["terminate", "truncate"])
def test_the_counter_ends_where_it_is_told(end):
    """Five frames with repeat 2 are 2 + 2 + 1."""
    toy = make("toy", task="counter", kwargs={"length": 5, "end": end}, action_repeat=2)
    toy.reset()
    steps = [toy.step(np.zeros(1, np.float32)) for _ in range(3)]
    assert [s.frames for s in steps] == [2, 2, 1]
    assert (steps[-1].terminated, steps[-1].truncated) == (end == "terminate", end == "truncate")
    assert steps[-1].obs["state"].tolist() == [5, 0]
    assert toy.reset()["state"].tolist() == [0, 1]

"""What simulators know beyond what they show, and how poses are left for others."""

import numpy as np
import pytest

from envs import make
from envs.truth import displacement, truth


def steps(simulator, plan):
    """What is true at every row of an episode: dict of T+1 P."""
    rows = [truth(simulator, simulator.reset())]
    for action in plan:
        rows.append(truth(simulator, simulator.step(np.asarray(action, np.float32)).obs))
    return {name: np.stack([row[name] for row in rows]) for name in rows[0]}


def test_dead_reckoning_of_a_rover_is_its_displacement():
    """Turns come before drives and turn them, so the same moves in another order lead elsewhere."""
    moves = np.random.default_rng(0).uniform(-1, 1, (8, 2))
    simulator = make("toy", task="rover")

    def reckon(plan):
        x = y = heading = 0.0
        for drive, turn in plan:
            heading += simulator.TURN * turn
            x += simulator.SPEED * drive * np.cos(heading)
            y += simulator.SPEED * drive * np.sin(heading)
        return np.array([x, y, heading])

    pose = steps(simulator, moves)["planar_pose"]
    for start, stop in ((0, 8), (3, 7), (5, 6)):
        moved = displacement("planar_pose", pose[start], pose[stop])
        np.testing.assert_allclose(moved, reckon(moves[start:stop]), atol=1e-6)
    backwards = steps(simulator, moves[::-1])["planar_pose"][-1]
    assert np.abs(backwards[:2] - pose[-1, :2]).max() > 0.05


def test_a_rover_sees_its_beacons_from_where_it_stands():
    simulator = make("toy", task="rover", kwargs={"beacons": 1})
    seen = simulator.reset()["state"]
    beacon = truth(simulator, {})["constant_beacons"]
    np.testing.assert_allclose(seen, beacon, atol=1e-6)  # at first both frames are one
    quarter = simulator.step(np.array([0.0, 1.0], np.float32)).obs["state"]
    turn = simulator.TURN
    rotated = [
        np.cos(turn) * beacon[0] + np.sin(turn) * beacon[1],
        np.cos(turn) * beacon[1] - np.sin(turn) * beacon[0],
    ]
    np.testing.assert_allclose(quarter, rotated, atol=1e-5)
    assert np.array_equal(truth(simulator, {})["constant_beacons"], beacon)


def test_headings_wrap_and_coordinates_do_not():
    before, after = np.array([0.0, 0.0, 3.0]), np.array([0.0, 0.0, -3.0])
    assert displacement("planar_pose", before, after)[2] == pytest.approx(2 * np.pi - 6)
    assert displacement("pose", before, after)[2] == -6


@pytest.mark.parametrize("task", ["walker_walk", "quadruped_walk", "swimmer_swimmer6", "hopper_hop"])
def test_bodies_that_move_through_the_plane_have_a_planar_pose(task):
    known = steps(
        make("dmc", task=task, seed=1),
        np.random.default_rng(0).uniform(-1, 1, (20, 30))[:, : make("dmc", task=task).spec.action.size],
    )
    assert known["planar_pose"].shape == (21, 3)
    assert known["planar_pose"].std(0).min() > 0
    assert {"position", "velocity"} <= known.keys()


def test_what_falls_forwards_turns_as_its_plane_says():
    """From z towards x is a positive turn about y and a negative one in the x-z plane."""
    simulator = make("dmc", task="walker_walk")
    simulator.reset()
    data = simulator.physics.named.data
    for lean in (0.3, -0.3):
        data.qpos["rooty"] = lean
        simulator.physics.forward()
        assert truth(simulator, {})["planar_pose"][2] == pytest.approx(-lean)
        up = data.xmat["torso"].reshape(3, 3)[:, 2]
        assert np.sign(up[0]) == np.sign(lean)


def test_a_target_is_a_constant_and_a_cartpole_has_coordinates():
    reacher = steps(make("dmc", task="reacher_easy"), np.zeros((3, 2)))
    assert np.ptp(reacher["constant_target"], 0).max() == 0
    cartpole = steps(make("dmc", task="cartpole_swingup"), np.ones((3, 1)))
    assert np.array_equal(cartpole["pose"], cartpole["position"])


def test_a_veil_hides_nothing_from_the_truth():
    veiled = make("dmc", task="cartpole_swingup", hide=["velocity"], delay=1)
    obs = veiled.reset()
    assert np.array_equal(truth(veiled, obs)["velocity"], truth(veiled.simulator, obs)["velocity"])


def test_who_says_nothing_is_taken_at_what_it_shows():
    gym = make("gym", id="FrozenLake-v1")
    obs = gym.reset()
    assert truth(gym, obs).keys() == obs.keys()
    cart = make("gym", id="CartPole-v1")
    assert truth(cart, cart.reset())["pose"].shape == (4,)

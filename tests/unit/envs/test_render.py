"""Pictures: the same for the same state, independent of who else draws, and explained when impossible."""

import numpy as np
import pytest

from envs import EnvError, make, make_batch, render
from envs.render import resize


def test_pixels_repeat_and_follow_the_state(gl):
    """Two simulators with the same seed draw the same bytes; another camera and another state do not."""
    runs = []
    for camera in (0, 0, 1):
        simulator = make("dmc", task="cartpole_swingup", observations="both", pixels=32, camera=camera)
        frames = [simulator.reset()["pixels"]]
        frames += [simulator.step(np.ones(1, np.float32)).obs["pixels"] for _ in range(8)]
        runs.append(np.stack(frames))
    assert runs[0].shape == (9, 3, 32, 32)
    assert runs[0].dtype == np.uint8
    assert np.array_equal(runs[0], runs[1])
    assert not np.array_equal(runs[0], runs[2])
    assert not np.array_equal(runs[0][0], runs[0][-1])


def test_a_video_frame_does_not_disturb_training_pixels(gl):
    """Full quality and another size in between leave the next fast picture as it was."""
    simulator = make("dmc", task="pendulum_swingup")
    simulator.reset()
    before = simulator.render(48, 48)
    full = simulator.render(120, 160, quality="full")
    assert full.shape == (120, 160, 3)
    assert np.array_equal(simulator.render(48, 48), before)


def test_drawing_does_not_change_the_simulation(gl):
    """Observing is free of consequences."""
    watched, alone = make("dmc", task="walker_walk"), make("dmc", task="walker_walk")
    watched.reset()
    alone.reset()
    for _ in range(3):
        watched.render(32, 32)
        a, b = watched.step(np.ones(6, np.float32)), alone.step(np.ones(6, np.float32))
        assert np.array_equal(a.obs["state"], b.obs["state"])


def test_a_batch_draws_in_any_backend(gl):
    """A worker process finds its own GL."""
    env = make_batch(
        {"kind": "dmc", "task": "pendulum_swingup", "observations": "pixels", "pixels": 16},
        2,
        backend="process",
        workers=1,
    )
    td = env.reset()
    assert td["pixels"].shape == (2, 3, 16, 16)
    assert td["pixels"].float().std() > 0
    assert env.render(1, 24, 32).shape == (24, 32, 3)
    env.close()


def test_an_unknown_camera_or_quality_is_named(gl):
    """A wrong choice lists the right ones."""
    simulator = make("dmc", task="walker_walk", camera="backk")
    simulator.reset()
    with pytest.raises(EnvError, match="side"):
        simulator.render(16, 16)
    with pytest.raises(EnvError, match="fast or full"):
        simulator.render(16, 16, quality="best")


def test_without_gl_the_message_says_what_to_install(monkeypatch):
    """One line that can be pasted."""
    monkeypatch.setattr(render, "_draws", lambda name, timeout_s: False)
    monkeypatch.delenv("MUJOCO_GL", raising=False)
    with pytest.raises(EnvError, match="apt install libegl1"):
        render.choose_backend.__wrapped__()


def test_an_explicit_choice_is_the_only_one_tried(monkeypatch):
    """MUJOCO_GL=osmesa never falls back to another backend in silence."""
    tried = []
    monkeypatch.setattr(render, "_draws", lambda name, timeout_s: tried.append(name))
    monkeypatch.setenv("MUJOCO_GL", "osmesa")
    with pytest.raises(EnvError, match="osmesa"):
        render.choose_backend.__wrapped__()
    assert tried == ["osmesa"]


def test_resize_averages_areas():
    """Shrinking keeps the mean; no pixel is dropped."""
    image = np.random.default_rng(0).integers(0, 256, (90, 120, 3), np.uint8)
    small = resize(image, 45, 60)
    assert np.array_equal(
        small, (image.reshape(45, 2, 60, 2, 3).astype(int).sum((1, 3)) // 4).astype(np.uint8)
    )
    assert resize(image, 64, 64).shape == (64, 64, 3)
    assert resize(image, 200, 300).shape == (200, 300, 3)

"""R3: a run cut in the middle of episodes goes on exactly; on every dm_control task the difference is 0.0."""

import numpy as np
import pytest

from envs import make
from envs.wire import pack, unpack
from tests.e2e.runner import fingerprint
from tests.unit.envs.test_dmc import ALL, SLOW, actions


@pytest.mark.parametrize(
    "task", [task if task not in SLOW else pytest.param(task, marks=pytest.mark.long) for task in ALL]
)
def test_a_snapshot_continues_bit_for_bit_in_a_new_object(task):
    """Save in the second episode, go on, then restore twice elsewhere: all later numbers are equal."""
    source = make("dmc", task=task, seed=7)
    source.reset()
    source.reset()
    plan = actions(source, 14)
    for action in plan[:6]:
        source.step(action)
    saved = unpack(pack(source.snapshot()))
    expected = [source.step(action) for action in plan[6:]]
    twin = make("dmc", task=task, seed=7)
    for _ in range(2):
        twin.restore(saved)
        for action, right in zip(plan[6:], expected, strict=True):
            step = twin.step(action)
            assert np.array_equal(step.obs["state"], right.obs["state"])
            assert step[1:] == right[1:]
    source.reset()
    twin.reset()
    assert np.array_equal(source.snapshot()["integration"], twin.snapshot()["integration"])


KINDS = {
    "a dm_control task": ("env=dmc_cartpole_swingup",),
    "uniform draws": ("env=dmc_cartpole_swingup", "replay=uniform"),
    "a Gymnasium task with discrete actions": ("env=gym", "env.id=CartPole-v1"),
    "worker processes": ("env=toy_point_mass", "env.backend=process", "env.num=3"),
    "a planner": ("env=toy_identity", "agent.planner=mppi", "agent.plan.samples=16", "agent.plan.elites=4"),
}


@pytest.mark.parametrize("kind", KINDS)
def test_resuming_in_the_middle_of_episodes_is_exact(runner, tmp_path, kind):
    settings = ("trainer=debug", "logger.progress=off", "trainer.eval_every=0", *KINDS[kind])
    short, long = tmp_path / "short", tmp_path / "long"
    # 430 is neither the end of an episode nor a multiple of anything.
    answer = runner.train(*settings, "trainer.frames=430", f"run.dir={short}")
    assert answer["code"] == 0, runner.log.read_text()
    answer = runner.train(*settings, "trainer.frames=600", f"run.dir={short}")
    assert answer["code"] == 0, runner.log.read_text()
    assert runner.train(*settings, "trainer.frames=600", f"run.dir={long}")["code"] == 0
    resumed, straight = fingerprint(short), fingerprint(long)
    for file in ("weights.safetensors", "optim.safetensors"):
        assert resumed[file] == straight[file]

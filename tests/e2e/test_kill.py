"""A run that is killed at any moment and started again ends with the same bytes as an undisturbed one."""

import random
import signal

import pytest

from tests.e2e.runner import Runner, fingerprint

RUN = ("trainer=debug", "env=toy_point_mass", "logger.progress=off")


@pytest.fixture(scope="module")
def runner(tmp_path_factory):
    helper = Runner(tmp_path_factory.mktemp("runner"))
    yield helper
    helper.close()


@pytest.fixture(scope="module")
def undisturbed(runner, tmp_path_factory):
    run = tmp_path_factory.mktemp("undisturbed") / "run"
    answer = runner.train(*RUN, f"run.dir={run}")
    assert answer["code"] == 0, runner.log.read_text()
    return fingerprint(run), answer["seconds"]


@pytest.mark.parametrize("seed", range(10))
def test_kill_at_a_random_moment_changes_nothing(runner, undisturbed, tmp_path, seed):
    expected, seconds = undisturbed
    draw, run = random.Random(seed), tmp_path / "run"
    code, kills = -9, 0
    while code == -9:
        # One kill while it is young, one later, then it may finish.
        after = draw.uniform(0.05, 1.0) * seconds if kills < 2 else None
        code = runner.train(*RUN, f"run.dir={run}", kill_after=after)["code"]
        kills += 1
    assert code == 0, runner.log.read_text()
    assert fingerprint(run) == expected


@pytest.mark.parametrize(("sig", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_polite_signal_saves_and_leaves_within_seconds(runner, undisturbed, tmp_path, sig, code):
    expected, _ = undisturbed
    run = tmp_path / "run"
    # At its first checkpoint, not after a time: how long a run takes depends on what else the machine does.
    stopped = runner.train(*RUN, f"run.dir={run}", kill_when=run / "checkpoints" / "last", sig=sig)
    assert stopped["code"] == code, runner.log.read_text()
    assert stopped["left_after"] < 5
    assert (run / "checkpoints" / "last" / "manifest.json").exists()
    assert runner.train(*RUN, f"run.dir={run}")["code"] == 0
    assert fingerprint(run) == expected


def test_a_flipped_bit_in_the_newest_checkpoint_falls_back_to_the_one_before(runner, undisturbed, tmp_path):
    expected, seconds = undisturbed
    run = tmp_path / "run"
    runner.train(*RUN, f"run.dir={run}", kill_after=0.8 * seconds, sig=signal.SIGTERM)
    weights = (run / "checkpoints" / "last" / "weights.safetensors").resolve()
    data = bytearray(weights.read_bytes())
    data[len(data) // 2] ^= 1
    weights.write_bytes(data)
    assert runner.train(*RUN, f"run.dir={run}")["code"] == 0
    assert "weights.safetensors" in runner.log.read_text()
    assert fingerprint(run) == expected


@pytest.mark.parametrize(
    "changed",
    [
        ("trainer.eval_every=0", "trainer.checkpoint_every=0"),
        ("trainer.eval_every=200", "trainer.eval_episodes=3", "trainer.checkpoint_every=150"),
        ("logger.tensorboard=true", "trainer.log_every=37"),
        ("trainer.probe_every=200",),
    ],
)
def test_observing_does_not_disturb(runner, undisturbed, tmp_path, changed):
    expected, _ = undisturbed
    run = tmp_path / "run"
    assert runner.train(*RUN, *changed, f"run.dir={run}")["code"] == 0, runner.log.read_text()
    found = fingerprint(run)
    assert found["weights.safetensors"] == expected["weights.safetensors"]


def test_the_same_seed_repeats_and_another_does_not(runner, undisturbed, tmp_path):
    expected, _ = undisturbed
    for seed, same in ((0, True), (1, False)):
        run = tmp_path / f"run{seed}"
        assert runner.train(*RUN, f"seed={seed}", f"run.dir={run}")["code"] == 0
        assert (fingerprint(run) == expected) is same


KINDS = {
    "a dm_control task, prioritised": ("env=dmc_cartpole_swingup", "replay=prioritized"),
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

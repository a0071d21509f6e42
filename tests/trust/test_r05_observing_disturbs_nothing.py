"""R5: how often and with what a run is looked at leaves no trace in what it learns."""

import pytest

from tests.e2e.conftest import last_wins
from tests.e2e.runner import fingerprint
from tests.trust.conftest import RUN

LOOKS = {
    "never evaluated, never saved": ("trainer.eval_every=0", "trainer.checkpoint_every=0"),
    "often and at length": (
        "trainer.eval_every=200",
        "trainer.eval_episodes=3",
        "trainer.checkpoint_every=150",
    ),
    "with TensorBoard and many rows": ("logger.tensorboard=true", "trainer.log_every=37"),
    "with probes": ("trainer.probe_every=200",),
    "with a progress display": ("logger.progress=plain", "logger.every_s=0.1"),
}


@pytest.mark.parametrize("look", LOOKS)
def test_a_run_that_is_looked_at_learns_the_same(runner, undisturbed, tmp_path, look):
    expected, _ = undisturbed
    run = tmp_path / "run"
    assert runner.train(*last_wins(*RUN, *LOOKS[look]), f"run.dir={run}")["code"] == 0, runner.log.read_text()
    assert fingerprint(run)["weights.safetensors"] == expected["weights.safetensors"]
    assert fingerprint(run)["optim.safetensors"] == expected["optim.safetensors"]


def test_a_run_that_is_filmed_learns_the_same(runner, tmp_path, gl):
    """On a task that can be drawn: toys have no picture."""
    drawn = ("trainer=debug", "env=dmc_pendulum", "logger.progress=off", "trainer.frames=300")
    found = []
    for film in ("false", "true"):
        run = tmp_path / film
        words = (*drawn, "trainer.eval_every=100", f"trainer.video={film}", f"run.dir={run}")
        assert runner.train(*words)["code"] == 0, runner.log.read_text()
        assert bool(list(run.glob("videos/*.mp4"))) is (film == "true")
        found.append(fingerprint(run))
    assert found[0] == found[1]

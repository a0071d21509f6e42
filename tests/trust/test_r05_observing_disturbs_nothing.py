"""R5: how often and with what a run is looked at leaves no trace in what it learns."""

import pytest

from tests.e2e.runner import fingerprint
from tests.trust.conftest import RUN

LOOKS = {
    "never evaluated, never saved": ("trainer.eval_every=0", "trainer.checkpoint_every=0"),
    "often and at length": (
        "trainer.eval_every=200",
        "trainer.eval_episodes=3",
        "trainer.checkpoint_every=150",
    ),
    "on film": ("trainer.video=true", "trainer.eval_every=500"),
    "with TensorBoard and many rows": ("logger.tensorboard=true", "trainer.log_every=37"),
    "with probes": ("trainer.probe_every=200",),
    "with a progress display": ("logger.progress=plain", "logger.every_s=0.1"),
}


@pytest.mark.parametrize("look", LOOKS)
def test_a_run_that_is_looked_at_learns_the_same(runner, undisturbed, tmp_path, look):
    expected, _ = undisturbed
    settings = {word.partition("=")[0]: word for word in (*RUN, *LOOKS[look])}
    run = tmp_path / "run"
    assert runner.train(*settings.values(), f"run.dir={run}")["code"] == 0, runner.log.read_text()
    assert fingerprint(run)["weights.safetensors"] == expected["weights.safetensors"]
    assert fingerprint(run)["optim.safetensors"] == expected["optim.safetensors"]

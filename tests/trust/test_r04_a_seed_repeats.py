"""R4: the same seed gives the same bytes in three processes, and another seed others."""

import pytest

from tests.e2e.runner import fingerprint
from tests.trust.conftest import RUN

PIXELS = ("trainer=debug", "env=dmc_pendulum", "env.observations=pixels", "worldmodel=seq_jepa_pixels")
SHORT = ("trainer.frames=260", "trainer.eval_every=0", "logger.progress=off", "env.pixels=32")


def test_state_runs_repeat(runner, undisturbed, tmp_path):
    expected, _ = undisturbed
    for name, seed, same in (("second", 0, True), ("third", 0, True), ("other", 1, False)):
        run = tmp_path / name
        assert runner.train(*RUN, f"seed={seed}", f"run.dir={run}")["code"] == 0
        assert (fingerprint(run) == expected) is same


@pytest.mark.long
def test_pixel_runs_repeat(runner, tmp_path, gl):
    found = []
    for name in ("first", "second", "third"):
        run = tmp_path / name
        answer = runner.train(*PIXELS, *SHORT, f"run.dir={run}")
        assert answer["code"] == 0, runner.log.read_text()
        found.append(fingerprint(run))
    assert found[0] == found[1] == found[2]

"""R4: the same seed gives the same bytes in three processes, and another seed others."""

import os
import subprocess
import sys

import pytest

from tests.e2e.runner import ROOT, fingerprint
from tests.trust.conftest import RUN

PIXELS = ("trainer=debug", "env=dmc_pendulum", "env.observations=pixels", "worldmodel=seq_jepa_pixels")
SHORT = ("trainer.frames=260", "trainer.eval_every=0", "logger.progress=off", "env.pixels=32")


def test_state_runs_repeat(runner, undisturbed, tmp_path):
    expected, _ = undisturbed
    for name, seed, same in (("second", 0, True), ("third", 0, True), ("other", 1, False)):
        run = tmp_path / name
        assert runner.train(*RUN, f"seed={seed}", f"run.dir={run}")["code"] == 0
        assert (fingerprint(run) == expected) is same


def test_an_interpreter_of_its_own_with_other_hashes_repeats_them_too(undisturbed, tmp_path):
    run, environment = tmp_path / "run", os.environ | {"PYTHONPATH": str(ROOT), "PYTHONHASHSEED": "1"}
    words = [sys.executable, "-m", "agents.train", *RUN, f"run.dir={run}"]
    done = subprocess.run(
        words,
        cwd=tmp_path,
        env=environment | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert fingerprint(run) == undisturbed[0]


@pytest.mark.long
@pytest.mark.timeout(1200)
def test_a_compiled_run_repeats_and_goes_on_exactly(runner, tmp_path):
    words = (*RUN, "agent.compile=true", "trainer.frames=600", "trainer.checkpoint_every=300")
    found = []
    for name, until in (("whole", None), ("cut", "checkpoints/000000300")):
        run = tmp_path / name
        if until:
            assert runner.train(*words, f"run.dir={run}", kill_when=run / until)["code"] == -9
        assert runner.train(*words, f"run.dir={run}")["code"] == 0, runner.log.read_text()
        found.append(fingerprint(run))
    assert found[0] == found[1]
    assert "compiling the update" in runner.log.read_text()


@pytest.mark.long
def test_pixel_runs_repeat(runner, tmp_path, gl):
    found = []
    for name in ("first", "second", "third"):
        run = tmp_path / name
        answer = runner.train(*PIXELS, *SHORT, f"run.dir={run}")
        assert answer["code"] == 0, runner.log.read_text()
        found.append(fingerprint(run))
    assert found[0] == found[1] == found[2]

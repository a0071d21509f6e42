"""R11: SIGTERM and SIGINT save and leave within seconds, twice in a row too; the same command goes on."""

import signal

import pytest

from tests.e2e.runner import fingerprint
from tests.trust.conftest import RUN

CODES = {signal.SIGTERM: 143, signal.SIGINT: 130}


@pytest.mark.parametrize("sig", CODES)
def test_a_polite_signal_saves_and_leaves_within_seconds(runner, undisturbed, tmp_path, sig):
    expected, _ = undisturbed
    run = tmp_path / "run"
    # At its first checkpoint, not after a time: how long a run takes depends on what else the machine does.
    for checkpoint in ("last", "000000500"):
        stopped = runner.train(*RUN, f"run.dir={run}", kill_when=run / "checkpoints" / checkpoint, sig=sig)
        if stopped["code"] == 0:  # the second came after the end
            break
        assert stopped["code"] == CODES[sig], runner.log.read_text()
        assert stopped["left_after"] < 5
    assert (run / "checkpoints" / "last" / "manifest.json").exists()
    assert runner.train(*RUN, f"run.dir={run}")["code"] == 0
    assert fingerprint(run) == expected

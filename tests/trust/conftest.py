"""Promises are tested on small whole runs: one that is finished, one that nobody disturbed."""

import pytest

from tests.e2e.conftest import copied, finished, tell
from tests.e2e.runner import Runner, fingerprint

__all__ = ["copied", "finished", "tell"]

RUN = ("trainer=debug", "env=toy_point_mass", "logger.progress=off")


@pytest.fixture(scope="session")
def runner(tmp_path_factory):
    """Trains in forked children of one process that has imported everything."""
    helper = Runner(tmp_path_factory.mktemp("runner"))
    yield helper
    helper.close()


@pytest.fixture(scope="session")
def undisturbed(runner, tmp_path_factory):
    """The fingerprint of a run that nobody disturbed, and the seconds it took."""
    run = tmp_path_factory.mktemp("undisturbed") / "run"
    answer = runner.train(*RUN, f"run.dir={run}")
    assert answer["code"] == 0, runner.log.read_text()
    return fingerprint(run), answer["seconds"]

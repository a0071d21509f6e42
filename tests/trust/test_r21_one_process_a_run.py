"""R21: runs never share a directory, and a second process on a live run is refused."""

import os
import subprocess
import sys

import pytest

from agents import rundir
from agents.cli import UserError
from agents.train import main as train
from tests.e2e.conftest import TOY
from tests.unit.agents.test_rundir import REPO, start


def test_two_processes_do_not_write_one_run(tell, finished):
    held = rundir._acquire(finished)
    try:
        code, text = tell(train, *TOY, "trainer.frames=400", f"run.dir={finished}")
    finally:
        rundir._held.discard(finished)
        os.close(held)
    assert code == 2
    assert "already open" in text


def test_runs_that_start_in_the_same_second_never_share(tmp_path):
    runs = [start(tmp_path, fresh=True) for _ in range(20)]
    assert len({run.path for run in runs}) == 20
    for run in runs:
        run.close()


HOLD = """
import sys
from agents.rundir import open_run
run = open_run(sys.argv[1], "dmc_walker", 0, "0123456789abcdef")
print("ready", flush=True)
sys.stdin.read()
"""


def test_a_second_process_is_refused_with_the_pid_and_a_dead_one_leaves_no_lock(tmp_path):
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": REPO},
        text=True,
    )
    assert holder.stdout is not None
    assert holder.stdout.readline() == "ready\n"
    with pytest.raises(UserError, match=rf"pid {holder.pid}\b"):
        start(tmp_path)
    holder.kill()
    holder.communicate()
    with start(tmp_path) as run:
        assert run.resumed
        with pytest.raises(UserError, match=f"pid {os.getpid()}"):
            start(tmp_path)
    start(tmp_path).close()

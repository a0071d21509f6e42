"""R2: killed inside a save, at each write, fsync, rename, link and prune: the old state or the new."""

import errno
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from agents import checkpoint, durable
from agents.cli import DiskError
from tests.e2e.runner import fingerprint
from tests.unit.agents.test_checkpoint import fail, frames_of, put

ROOT = Path(__file__).parents[2]
SHORT = ("trainer=debug", "env=toy_point_mass", "logger.progress=off", "trainer.frames=400")
SAVES = (*SHORT, "trainer.checkpoint_every=100", "trainer.eval_every=0", "trainer.keep=2")
POINTS = 125  # at least as many as a run of SAVES has
SOME = (0, 1, 13, 44, 90, 115, 120)


@pytest.fixture(scope="module")
def unharmed(runner, tmp_path_factory):
    """The fingerprint of the run without a kill, and how many points its saves have."""
    run = tmp_path_factory.mktemp("unharmed") / "run"
    answer = runner.train(*SAVES, f"run.dir={run}", kill_at=10**9)
    assert answer["code"] == 0, runner.log.read_text()
    return fingerprint(run), int(runner.log.read_text().rpartition("points=")[2].split()[0])


@pytest.mark.parametrize(
    "point", [p if p in SOME else pytest.param(p, marks=pytest.mark.long) for p in range(POINTS)]
)
def test_a_run_killed_inside_a_save_ends_with_the_same_bytes(runner, unharmed, tmp_path, point):
    expected, points = unharmed
    assert points <= POINTS
    run = tmp_path / "run"
    code = runner.train(*SAVES, f"run.dir={run}", kill_at=point)["code"]
    assert code == (-signal.SIGKILL if point < points else 0)
    assert runner.train(*SAVES, f"run.dir={run}")["code"] == 0, runner.log.read_text()
    assert fingerprint(run) == expected
    assert not [path for path in run.rglob(".*") if path.name != ".lock"], "leftovers are cleaned up"


@pytest.mark.parametrize("again", [10, 20])
@pytest.mark.parametrize("error", [errno.ENOSPC, errno.EIO])
def test_an_error_at_every_point_of_a_save_leaves_the_old_or_the_new_state(
    tmp_path, monkeypatch, again, error
):
    """Also for the save that replaces an existing directory (again == 10)."""
    monkeypatch.setattr(durable, "step", lambda name: names.append(name))
    names: list[str] = []
    put(tmp_path / "count", 10)
    put(tmp_path / "count", again)
    total = len(names)
    assert {"write", "fsync", "rename", "link"} <= set(names)
    for point in range(total // 2, total):
        root = tmp_path / str(point)
        monkeypatch.setattr(durable, "step", lambda name: None)
        put(root, 10)
        strike_at(monkeypatch, point - total // 2, OSError(error, os.strerror(error)))
        with pytest.raises(DiskError) as caught:
            put(root, again)
        assert caught.value.exit_code == 74
        assert str(root) in str(caught.value)
        assert "fix:" in str(caught.value)
        monkeypatch.setattr(durable, "step", lambda name: None)
        assert frames_of(checkpoint.load_latest(root, fail)) in (10, again)
        put(root, 30)
        leftovers = [name for name in os.listdir(root) if not name.isdigit()]
        assert leftovers == ["last"]


def strike_at(monkeypatch, point, error):
    """Raise at the given step and at none after it."""
    left = [point]

    def step(name: str) -> None:
        left[0] -= 1
        if left[0] == -1:
            raise error

    monkeypatch.setattr(durable, "step", step)


KILLED = """
import os, signal, sys
from pathlib import Path
import torch
from agents import checkpoint, durable
root = Path(sys.argv[1])
def put(where, frames):
    tensors = {"weights": {"w": torch.full((8,), float(frames))}, "optim": {"m": torch.tensor(frames)}}
    checkpoint.save(where, frames, tensors, {"state": {"frames": frames}}, keep=2)
point = 0
while True:
    where = root / str(point)
    for frames in (10, 20, 30):
        put(where, frames)
    child = os.fork()
    if child == 0:
        left = [point]
        def step(name):
            left[0] -= 1
            if left[0] < 0:
                os.kill(os.getpid(), signal.SIGKILL)
        durable.step = step
        put(where, 40)
        os._exit(0)
    status = os.waitpid(child, 0)[1]
    if status == 0:
        break
    assert os.WTERMSIG(status) == signal.SIGKILL
    point += 1
print(point)
"""


def test_sigkill_at_every_point_of_a_save_leaves_the_old_or_the_new_state(tmp_path):
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", KILLED, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=True)
    points = int(done.stdout)
    assert points >= 15
    outcomes = set()
    for point in range(points):
        outcomes.add(frames_of(checkpoint.load_latest(tmp_path / str(point), fail)))
        put(tmp_path / str(point), 50, keep=2)
        assert sorted(os.listdir(tmp_path / str(point)))[-1] == "last"
        assert not list((tmp_path / str(point)).glob(".*"))
    assert outcomes == {30, 40}

"""The command that learns from pictures: killed while drawing and while learning, it ends the same."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from agents.calibrate import main as calibrate
from agents.pretrain import main
from envs import EnvError
from envs.render import choose_backend
from tests.e2e.runner import ROOT, fingerprint

SETTINGS = (
    "experiment=objects",
    "data.tier=t0",
    "learning.updates=24",
    "learning.batch=32",
    "learning.checkpoint_every=6",
    "study.only=[both]",
    "study.seeds=1",
    "logger=off",
)


@pytest.fixture(scope="module", autouse=True)
def _drawing():
    try:
        choose_backend()
    except EnvError as error:
        pytest.skip(str(error))


def start(data: Path, runs: Path) -> "subprocess.Popen[bytes]":
    """Start the command in a process of its own."""
    words = [*SETTINGS, f"data.root={data}", f"run.root={runs}"]
    command = [sys.executable, "-m", "agents.pretrain", *words]
    return subprocess.Popen(command, cwd=ROOT, env=dict(os.environ, OMP_NUM_THREADS="1"))


def killed(data: Path, runs: Path, when: str) -> None:
    """Start the command and kill it once a file that matches the pattern is there."""
    process, began = start(data, runs), time.monotonic()
    while not list(data.parent.glob(when)) and time.monotonic() - began < 120:
        assert process.poll() is None, "it ended before the kill"
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.wait()


@pytest.mark.timeout(600)
def test_kills_while_drawing_and_while_learning_change_nothing(tmp_path):
    data, runs, whole = tmp_path / "data", tmp_path / "runs", tmp_path / "whole"
    killed(data, runs, "data/objects-*/done.npy")
    killed(data, runs, "runs/*/*/checkpoints/000000006")
    assert start(data, runs).wait() == 0
    words = [*SETTINGS, f"data.root={data}", f"run.root={whole}"]
    assert main(words) == 0
    (cut,), (uncut,) = (list(place.glob("*/*/examination.json")) for place in (runs, whole))
    assert fingerprint(cut.parent) == fingerprint(uncut.parent)
    found, again = (json.loads(path.read_text())["metrics"] for path in (cut, uncut))
    assert found == again


def test_help_and_mistakes(tell):
    code, text = tell(main, "--help")
    assert code == 0
    assert "experiment=objects" in text
    assert "study.only" in text
    code, text = tell(main, "experiment=objcts")
    assert code == 2
    assert "objects" in text
    code, text = tell(main, "data=saccades", "data.tier=t3")
    assert code == 2
    assert "choose data.tier=t0, t1 or t2" in text
    code, text = tell(calibrate, "experiment=table")
    assert code == 2
    assert "data=objects or data=saccades" in text


def test_a_table_is_learned_examined_and_compared(tmp_path, tell):
    lines = ["a,b,kind,label"] + [f"{k % 17},{(k * 7) % 13},{'xyz'[k % 3]},{k % 2}" for k in range(120)]
    (tmp_path / "small.csv").write_text("\n".join(lines))
    words = (f"data.table={tmp_path / 'small.csv'}", "learning.updates=20", "learning.batch=16", "logger=off")
    code, text = tell(main, "experiment=table", *words, "study.seeds=1", f"run.root={tmp_path / 'runs'}")
    assert code == 0, text
    assert "table_small, registers" in text
    assert "table_small, alone" in text
    assert "score/frozen_mlp" in text
    code, text = tell(main, *words, "data=table", f"run.root={tmp_path / 'runs'}")
    assert code == 2
    assert "worldmodel=t_jepa" in text
    code, text = tell(main, "data=objects", "worldmodel=t_jepa", "data.tier=t0", f"data.root={tmp_path}")
    assert code == 2
    assert "seq_jepa_views" in text

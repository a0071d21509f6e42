"""R19: from nothing to a first learning curve in five minutes: no account, no network after it."""

import shutil
import subprocess
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
LEAVE = shutil.ignore_patterns(
    ".git", ".venv", "runs", "evidence", "__pycache__", "*.egg-info", ".hypothesis"
)


def do(command, where):
    options = {"capture_output": True, "text": True, "timeout": 900, "check": False}
    done = subprocess.run(command, cwd=where, **options)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    return done.stdout


@pytest.mark.long
@pytest.mark.timeout(1800)
def test_three_commands_and_then_no_network(tmp_path):
    home = shutil.copytree(ROOT, tmp_path / "home", ignore=LEAVE)
    began = time.monotonic()
    do(["make", "train", "ARGS=env=toy_point_mass trainer=debug run.dir=runs/first"], home)
    do([".venv/bin/python", "-m", "agents.plot", "runs=runs/first", "out=curve.png"], home)
    took = time.monotonic() - began
    print(f"from nothing to a curve: {took:.0f} s")
    assert (home / "curve.png").stat().st_size > 5000
    assert took <= 300
    alone = ["unshare", "--net", "--map-root-user"] if shutil.which("unshare") else []
    assert alone, "this needs unshare"
    words = ["env=toy_point_mass", "trainer=debug", "run.dir=runs/second"]
    do([*alone, ".venv/bin/python", "-m", "agents.train", *words], home)

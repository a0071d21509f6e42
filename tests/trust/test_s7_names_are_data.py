"""S7: names of runs, environments and tasks are data: refused or made plain, nothing outside the root."""

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agents.evaluate import main as evaluate
from agents.plot import main as plot
from agents.probe import main as probe
from agents.rundir import slug
from agents.train import main as train
from tests.e2e.conftest import QUIET

ODD = [
    "../../x",
    "a/b",
    "CON",
    "x" * 300,
    "line\nbreak",
    "nul\0byte",
    "-rf",
    "~",
    "$(touch owned)",
    "a;b",
    "\u202e",
]


@settings(max_examples=200, deadline=None)
@given(st.text(max_size=400))
def test_any_name_becomes_one_plain_directory(name):
    plain = slug(name)
    assert 0 < len(plain) < 80
    assert set(plain) <= set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_")
    assert (Path("/runs") / plain).resolve().parent == Path("/runs")


def test_names_that_look_alike_stay_apart():
    names = ["../../x", "x", "x\n", "X", "a/b", "a-b", "a" * 300, "a" * 301, "CON", "con", "", ".."]
    assert len({slug(name) for name in names}) == len(names)
    assert slug("dmc_walker") == "dmc_walker"


def everything(root):
    return sorted(str(path.relative_to(root)) for path in root.rglob("*"))


@pytest.mark.parametrize("name", ODD)
@pytest.mark.parametrize("where", ["env", "env.id", "env.task", "env.entry", "logger.project", "experiment"])
def test_an_odd_name_writes_nothing_outside_the_root(tell, tmp_path, monkeypatch, where, name):
    (tmp_path / "in" / "here").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "in" / "here")
    kinds = {"env.id": "env=gym", "env.task": "env=dmc", "logger.project": "env=toy_ring"}
    kind = [kinds[where]] if where in kinds else []
    code, text = tell(train, *kind, f"{where}={name}", *QUIET, "run.root=runs", "trainer.frames=20")
    assert code in (0, 2), text
    outside = [path for path in everything(tmp_path) if not path.startswith("in/here/runs")]
    assert outside == ["in", "in/here"]


@pytest.mark.parametrize("name", ODD)
@pytest.mark.parametrize("command", [evaluate, probe, plot])
def test_an_odd_run_is_not_there(tell, tmp_path, monkeypatch, command, name):
    monkeypatch.chdir(tmp_path)
    code, text = tell(command, f"{'runs' if command is plot else 'run'}={name}")
    assert code == 2, text
    assert everything(tmp_path) == []
